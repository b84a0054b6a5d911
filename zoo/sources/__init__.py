"""Data sources: classes that read or generate samples. A source does not depend on any model.

A source is a class registered under its module's name. ``zoo.types.Source`` and ``zoo.types.Split`` define the interface:

* ``modalities``: the modalities of its samples, for example ``("image", "text")``;
* ``splits``: the names that ``split`` accepts; the first one is the training split;
* ``split(name) -> Split``: return the samples of one split;
* ``class_names`` and ``templates``: the class names in the order of ``Sample.label``, and the prompt templates for zero-shot evaluation;
  both are empty if the source has no classes.

May import: ``types``, ``storage``, ``registry``, ``processors``, ``data``. To add a source, write ``zoo/sources/NAME.py`` with a
``Source`` and a ``Split``, and ``tests/data/sources/test_NAME.py``. Code that several sources share is in ``wording/``.
"""

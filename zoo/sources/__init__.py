"""Sources: where samples come from. A source never sees a model.

A source is a class registered under its module's name. It has:

* ``modalities``: what its samples hold, for example ``("image", "text")``;
* ``splits``: names that ``split`` takes; the first is for training;
* ``split(name) -> Split``: the samples of one split;
* ``class_names`` and ``templates``: labels in the order of ``Sample.label`` and the prompts they go into, for evaluation;
  an empty list where the source has no classes.
"""

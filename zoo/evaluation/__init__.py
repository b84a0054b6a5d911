"""Evaluations: compute metrics of a model on one split of a data source.

An evaluation is a class registered under the name of its module. ``zoo.types.Evaluation`` and ``zoo.types.Result`` define the interface:

* ``check(model, source)``: raises an error if the model or the source does not fit. Training calls it before the first step.
* ``__call__(model, source, split, *, advance) -> result``: evaluates one split. ``advance`` is a progress callback that receives the number
  of items just finished. The result has ``metrics`` (shares from 0 to 1, by name), ``num_items``, ``details`` and ``facts`` (further
  entries of ``metrics.json``), a ``title``, and ``draw(folder)``, which writes a picture or a page and returns its file name. It may have
  ``tables`` for the terminal (title, column names, rows of strings) and ``numbers``, the names of metrics that are not shares.

A head names its default evaluation in the class attribute ``evaluation``. It is used if the config names no evaluation.

Under ``torchrun`` the processes divide the items of an evaluation with ``shares_items`` (``measures/shares.py``); of any other, the first
process evaluates alone.

May import: ``types``, ``storage``, ``registry``, ``losses``, ``processors``, ``data``. To add an evaluation, write one file
``zoo/evaluation/NAME.py`` and ``tests/evaluation/test_NAME.py``. ``measures/`` holds metrics, ``results/`` result classes and reports,
``adapters/`` the interfaces of other benchmark suites.
"""

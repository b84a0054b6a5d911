"""Evaluations: a model, a source and a split in, figures out.

An evaluation is a class registered under its module's name. It has:

* ``check(model, source)``: raises before any work where the two cannot be evaluated; training calls it before the first step;
* ``__call__(model, source, split, *, advance) -> result``: ``advance`` is told how many more items are done. A result has ``metrics``
  (shares from 0 to 1, by name), ``num_items``, ``details`` and ``facts`` (more to be written down), a ``title``, and
  ``draw(folder)``, which writes its picture and returns the picture's name. It may have ``tables`` (title, columns and rows of strings)
  for the terminal, and ``numbers``: names of metrics that are no shares.

A head names its own in the class attribute ``evaluation``; that one is taken where a config names none.
"""

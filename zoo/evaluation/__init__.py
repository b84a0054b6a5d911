"""Evaluations: a model, a source and a split in, figures out.

An evaluation is a class registered under its module's name. It has:

* ``check(model, source)``: raises before any work where the two cannot be evaluated; training calls it before the first step;
* ``__call__(model, source, split, *, advance) -> AccuracyResult``: ``advance`` is told how many more items are done.

A head names its own in the class attribute ``evaluation``; that one is taken where a config names none.
"""

"""Samples to batches: the processor of a whole system, the loader, the order of items, packing, masking, mixup, and augmentation.

``readers/`` parses files into rows. Each batch is a pure function of seed and step, so that a resumed run sees the same data.

May import: ``types``, ``storage``, ``registry``, ``processors``. To add a step between sample and batch, add one file and its settings to
``zoo.runs.data_setup``; it must take its random numbers from the item's generator.
"""

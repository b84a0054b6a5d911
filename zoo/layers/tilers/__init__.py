"""Tilers, one file each: how a picture of any size is cut into tiles or patches.

Imports: types, registry, and the modules of ``zoo.layers``. A new one is a file here with ``@register("tiler")`` and a subclass of
``zoo.types.Tiler``; a config names it as ``processor.image.tiler.kind``.
"""

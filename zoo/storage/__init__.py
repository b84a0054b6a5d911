"""Bytes on disk: files that are written whole or not at all, the cache, packaged and hub places, and containers of tensors.

May import: nothing of zoo but ``errors``. Knows no model. Add a container of tensors: one file that reads it into a dict by name.
"""

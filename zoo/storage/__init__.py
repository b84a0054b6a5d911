"""Bytes on disk and elsewhere: atomic writes, the cache, packaged and hub places, remote files, and containers of tensors.

May import: no other room. The code here knows no model. To add a container of tensors (a file format such as GGUF), add one file with a
function that reads the container into a dict of tensors by name.
"""

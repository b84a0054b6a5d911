"""Models of other libraries: recognise a foreign directory or file, describe it as one of our configs, convert its weights, write it back.

One file or folder per family of models. ``base/`` holds the interface ``Format``, sources of tensors and rules that rename keys.

May import: ``types``, ``storage``, ``registry``, ``layers``, ``processors``, ``data``; a system is used as ``zoo.types.SystemLike``. To
add a family, add one file or folder with a ``Format``, and a test that saves a tiny random model with the reference library and loads it
here.
"""

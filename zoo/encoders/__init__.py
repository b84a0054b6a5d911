"""Encoders: models that convert images, text or audio to tokens and, unless ``gives_pooled`` is False, one pooled vector.

Each encoder is a class registered under its module's name: ``zoo/encoders/vit.py`` registers ``vit``. ``zoo.types.Encoder`` defines the
interface. Encoders import ``zoo.layers`` and the basic modules (types, errors, registry), but never one another.

To add an encoder, write its module, a table of its models in ``conf/encoder/NAME.yaml`` (with a ``*_nano`` for tests), and its tests in
``tests/encoders/``.
"""

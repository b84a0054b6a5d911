"""Encoders: models that convert images, text or audio to tokens and, unless ``gives_pooled`` is False, one pooled vector.

Each encoder is a class registered under its module's name: ``zoo/encoders/vit.py`` registers ``vit``. ``zoo.types.Encoder`` defines the
interface. May import: ``types``, ``registry``, ``layers``; one encoder never imports another.

To add an encoder, write its module, a table of its models in ``conf/encoder/NAME.yaml`` (with a ``*_nano`` for tests), and its tests in
``tests/encoders/test_NAME.py``. ``.github/CONTRIBUTING.md`` shows each step.
"""

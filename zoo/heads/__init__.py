"""Heads: modules that compute a loss, and predictions, from the outputs of the encoders. One file per head.

``zoo.types.Head`` defines the interface. May import: ``types``, ``registry``, ``layers``, ``losses``, ``language``; one head never imports
another. Code that two heads share is in ``bases/``.

To add a head, write ``zoo/heads/NAME.py`` with a class that is registered by ``@register("head")``, returns a ``HeadOutput``, and declares
in ``accepts`` the modalities that it reads and in ``verbs`` the methods that a system offers; then add ``conf/head/NAME.yaml`` and
``tests/heads/test_NAME.py``. ``.github/CONTRIBUTING.md`` shows each step.
"""

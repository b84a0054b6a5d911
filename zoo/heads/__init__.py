"""Heads: modules that compute a loss, and predictions, from the outputs of the encoders. One file per head.

To add a head, write ``zoo/heads/NAME.py`` with a class that is registered by ``@register("head")``, returns a ``HeadOutput``, and declares
in ``accepts`` the modalities that it reads and in ``verbs`` the methods that a system offers; then add its YAML file and a test.
"""

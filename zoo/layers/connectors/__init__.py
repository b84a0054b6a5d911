"""Connectors, one file each: modules that map an encoder's tokens to a language model's width and may change their number.

Padding never influences a real token: it is set to zero before tokens are mixed, and masked in attention. To add a connector, write
``NAME.py`` with one registered subclass of ``zoo.types.Connector``; its keywords become config options. What connectors share lies in
``zoo.layers.connector``.
"""

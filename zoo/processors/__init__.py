"""Processors: raw input of one modality to tensors, and back (``zoo.types.ModalityProcessor`` defines the interface).

``image``, ``audio``, ``text``, ``conversation``, ``speech`` (mels to predict) and ``transcript`` are the registered processors.
``media/`` reads and writes files and spectra, ``chat/`` renders conversations, ``tokenizers/`` holds tokenizers.

May import: ``types``, ``storage``, ``registry``, ``layers`` (feature extractors of transformers).

To add a processor, add ``zoo/processors/NAME.py`` with a class registered by
``@register("processor")`` that defines ``settings``, ``item``, ``collate``, ``__call__`` and ``meta``, and its tests in ``tests/data/``.
"""

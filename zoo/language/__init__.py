"""Causal language models: token ids to a distribution over the next token (``zoo.types.LanguageModel`` defines the interface).

``decoding/`` generates text (sampling, beam search, streaming), ``transcription/`` applies Whisper's decoder to long recordings.

May import: ``types``, ``registry``, ``layers``, ``processors``. To add a language model, write ``zoo/language/NAME.py`` with a class
registered by ``@register("language")``, a table of its models in ``conf/language/NAME.yaml`` (with a ``*_nano`` for tests), and
``tests/language/test_NAME.py``.
"""

"""Tokenizers: read from the files of a model, converted from another library, or trained on the texts of a run.

Every tokenizer is a ``tokenizers.Tokenizer``, but MarianMT's (``piece_tokenizer.py``). To add one of another library, add a function that
builds it to ``library_tokenizers.py``.
"""

"""Generation of text by a causal language model: prefill of prompts, sampling, beam search, and streaming of text.

To add a way to choose the next token, extend ``sampling.py``; a new search is one file beside ``beams.py``. Nothing here is registered.
"""

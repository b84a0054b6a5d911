"""Base classes and shared code of heads: ``multimodal_lm`` for LLaVA and Kosmos, ``synthesis`` for the Tacotrons.

Nothing here is registered. Code moves here once a second head needs it.
"""

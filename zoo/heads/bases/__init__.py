"""Base classes and parts of heads: ``multimodal_lm`` for LLaVA and Kosmos, ``synthesis`` for the Tacotrons, ``anchored`` for CLIP.

Nothing here is registered. Code moves here once a second head needs it, or to keep a head's file short.
"""

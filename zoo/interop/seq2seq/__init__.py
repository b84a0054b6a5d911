"""Encoder-decoder models of transformers: MarianMT, BART, mBART, Pegasus, T5 and mT5, and image encoders with TrOCR's decoder."""

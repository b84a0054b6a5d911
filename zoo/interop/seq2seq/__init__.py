"""Encoder-decoder models of transformers: MarianMT, BART, mBART, Pegasus, T5, mT5 and Switch Transformers, and image encoders with TrOCR's decoder."""

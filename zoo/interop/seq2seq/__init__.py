"""Encoder-decoder models of transformers: MarianMT, BART, mBART, Pegasus, T5, mT5, Switch Transformers, and image encoders with TrOCR."""

"""Building blocks that several encoders, heads or language models share: attention, blocks, norms, connectors, decoders of speech.

May import: ``types``. A layer only computes: it chooses no device, seed or tokenizer, and prints nothing. To add a layer, add one file.
Code moves here once a second model needs it; until then it stays in the file of the first model.
"""

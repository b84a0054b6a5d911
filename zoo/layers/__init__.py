"""Building blocks that several encoders, heads or language models share: attention, blocks, norms, connectors, decoders of speech.

A layer computes only: it chooses no device, seed or tokenizer, and prints nothing. Layers import ``zoo.errors`` and ``zoo.types``. To add one,
write a file here once a second model needs the code; until then the code stays in the file of the model.
"""

"""Denoising of texts, the pre-training of encoder-decoder models: pure functions from token ids to corrupted input and target.

``spans.py`` has T5's span corruption and its relatives, ``infilling.py`` BART's noises, ``fragment.py`` MASS; ``denoising.py`` applies one
of them to batches. May import: nothing of zoo but ``types``. Add a noise: a function here, and a line in ``KINDS`` of ``denoising.py``.
"""

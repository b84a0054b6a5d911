"""Models of timm and transformers as they are: their rows (``rows``, which imports neither) and their weights (``format``)."""

"""Shared wording of sources: captions from class names, questions with answers, and concepts held out of training.

Nothing here is registered. Code moves here once a second source needs it.
"""

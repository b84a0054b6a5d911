"""The training loop and its parts: optimizer, schedule, freezing, feature cache, gradient cache, logs, saved states.

The loop knows no config: ``zoo.runs.train`` builds its arguments. ``objectives/`` holds losses that replace the head's own loss.

May import: ``types``, ``storage``, ``registry``, ``losses``, ``data``; models are used only through ``zoo.types``. To add an objective,
write ``zoo/training/objectives/NAME.py`` and a test in ``tests/objectives/``.
"""

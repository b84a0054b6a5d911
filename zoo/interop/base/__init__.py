"""Shared code of the formats: the interface ``Format``, lazy sources of tensors, rules for names, and preprocessing in foreign configs."""

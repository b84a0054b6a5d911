"""Interfaces of other benchmark suites for our models: ``mteb``, ``lmms`` (lmms-eval), and ``embedder``, the vectors of raw inputs."""

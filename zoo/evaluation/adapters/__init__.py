"""Interfaces of other benchmark suites for our models: ``mteb``, and ``embedder``, the vectors of raw inputs."""

"""Transcription of recordings of any length with Whisper's decoder: windows, decoding rules, word times, and transcript files.

``transcribe`` is the entry point. To add an output format, add a function to ``writers.py``. Nothing here is registered.
"""

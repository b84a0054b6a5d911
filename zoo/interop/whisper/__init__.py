"""Whisper of transformers, openai-whisper and CTranslate2 (faster-whisper): names of tensors, configs, and files that they read."""

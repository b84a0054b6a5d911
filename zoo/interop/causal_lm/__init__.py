"""Causal language models of transformers (LLaMA, Mistral, GPT-2 ...), GGUF files, and checkpoints of Meta: names, configs, tokenizers."""

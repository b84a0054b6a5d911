"""LLaVA of transformers: names of tensors, configs, and directories that transformers reads."""

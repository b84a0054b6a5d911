"""Vision-language models of transformers that take pictures of any size: Idefics3, SmolVLM, LLaVA-NeXT and Qwen-VL."""

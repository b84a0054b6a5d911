"""Vision-language models of transformers that cut pictures into tiles: Idefics3, SmolVLM and LLaVA-NeXT."""

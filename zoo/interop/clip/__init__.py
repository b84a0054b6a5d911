"""CLIP and SigLIP of transformers, open_clip and OpenAI: names of tensors, configs, and directories that the libraries read."""

"""Vision Transformers of timm and transformers (ViT, DINOv2): names of tensors, configs, and files that the libraries read."""

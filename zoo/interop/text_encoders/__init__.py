"""BERT, RoBERTa, ALBERT, T5 and sentence encoders of transformers: names of tensors, configs, and directories that it reads."""

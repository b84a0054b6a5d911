"""A teacher beside the training: its vectors for each batch's inputs become a target of the batch."""

from dataclasses import replace

import torch
from torch import nn

from zoo.errors import ConfigError
from zoo.types import TEACHER, Batch, encode


class Teacher:
    """Ask a frozen model for the vectors of one modality.

    Args:
        model: an encoder, or a system with the verb ``embed``.
        modality: which of the batch's inputs it is asked for. It gets the same tensors as the student, so that both must share
            preprocessing and tokenizer.

    Raises:
        ConfigError: it gives no vectors of that modality.
    """

    def __init__(self, model: nn.Module, modality: str) -> None:
        self.model, self.modality = model.eval().requires_grad_(False), modality
        self.encoders = dict(getattr(model, "encoders", {getattr(model, "modality", ""): model}))
        if modality not in self.encoders or not getattr(self.encoders[modality], "gives_pooled", True):
            raise ConfigError(f"teacher: gives no vectors of {modality}; it has: {', '.join(self.encoders)}")

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """The batch with ``targets["teacher"]`` [batch, dim]."""
        self.model.to(batch.inputs[self.modality].device)
        x, mask = batch.inputs[self.modality], batch.masks.get(self.modality)
        encoded = encode(self.encoders[self.modality], x, mask, reads="pooled")
        head = getattr(self.model, "head", None)
        vectors = encoded.pooled if head is None else head.project(self.modality, encoded)
        return replace(batch, targets={**batch.targets, TEACHER: vectors})

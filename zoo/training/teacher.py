"""Teacher of a distillation run: a frozen model whose embeddings are added to each batch as a target."""

from dataclasses import replace

import torch
from torch import nn

from zoo.errors import ConfigError
from zoo.types import TEACHER, Batch, encode, encoders_of, head_of


class Teacher:
    """Callable that adds a frozen model's embeddings of one modality to a batch.

    Args:
        model: an encoder, or a system with the method ``embed``.
        modality: modality of the batch to embed. Teacher and student get the same input tensors, so that they must share preprocessing
            and tokenizer.

    Raises:
        ConfigError: the model has no encoder of this modality with a pooled output.
    """

    def __init__(self, model: nn.Module, modality: str) -> None:
        self.model, self.modality = model.eval().requires_grad_(False), modality
        self.encoders = encoders_of(model)
        if modality not in self.encoders or not self.encoders[modality].gives_pooled:
            raise ConfigError(
                f"teacher: the model has no encoder of {modality} with a pooled output; its encoders: {', '.join(self.encoders)}. Choose "
                "another teacher"
            )

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the teacher's embeddings as ``targets["teacher"]`` [batch, dim]."""
        self.model.to(batch.inputs[self.modality].device)
        x, mask, grids = batch.inputs[self.modality], batch.masks.get(self.modality), batch.grids.get(self.modality)
        encoded = encode(self.encoders[self.modality], x, mask, reads="pooled", grids=grids)
        head = head_of(self.model)
        vectors = encoded.pooled if head is None else head.project(self.modality, encoded)
        return replace(batch, targets={**batch.targets, TEACHER: vectors})

"""Distillation head: one encoder learns to reproduce the vectors of a teacher.

Papers: Hinton et al. 2015 (arXiv 1503.02531); for sentence vectors Reimers and Gurevych 2020 (arXiv 2004.09813), who use the squared
distance. The loss here uses the cosine, because contrastive heads and search compare unit vectors.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import nn

from zoo.errors import DataError
from zoo.registry import register
from zoo.types import TEACHER, Accepts, Batch, Encoded, EncoderSpec, Head, HeadOutput, need_encoded


@register("head")
class Distill(Head):
    """Cosine distillation of pooled vectors: the loss is 1 minus the cosine between the encoder's and the teacher's vector.

    Args:
        inputs: output spec of the one encoder, by modality.
        teacher_dim: width of the teacher's vectors; if it differs from the encoder's, a linear layer maps between them. None takes the
            encoder's width.

    Raises:
        DataError: (forward) the batch lacks the encoder's modality or the teacher's vectors, or their width is not ``teacher_dim``.
    """

    accepts = Accepts(modalities=("image", "audio", "text"), reads="pooled")
    needs_teacher = True

    def __init__(self, *, inputs: Mapping[str, EncoderSpec], teacher_dim: int | None = None) -> None:
        super().__init__()
        ((self.modality, spec),) = inputs.items()
        self.teacher_dim = spec.dim if teacher_dim is None else teacher_dim
        self.project = nn.Identity() if self.teacher_dim == spec.dim else nn.Linear(spec.dim, self.teacher_dim)

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss over this rank's items; ``outputs`` holds the vectors [batch, teacher_dim] by modality."""
        pooled = need_encoded(encoded, self.modality, "distill").pooled
        target = batch.need(TEACHER, "head 'distill'", "name a teacher with teacher=PATH (a saved model or its directory)")
        assert pooled is not None
        if target.shape[-1] != self.teacher_dim:
            raise DataError(
                f"the teacher's vectors have width {target.shape[-1]}, the head expects {self.teacher_dim}; set "
                f"system.head.teacher_dim={target.shape[-1]}"
            )
        vectors = self.project(pooled)
        # fp32: near the end of training, 1 - cosine is far below the precision of bf16.
        cosine = F.cosine_similarity(vectors.float(), target.float(), dim=-1).mean()
        return HeadOutput(1 - cosine, {"cosine": cosine.detach()}, {self.modality: vectors})

"""Distillation head: one encoder learns to give the vectors of a teacher.

Papers: Hinton et al. 2015 (arXiv 1503.02531); of sentence vectors Reimers and Gurevych 2020 (arXiv 2004.09813), which takes the
squared distance. Here it is the cosine, because unit vectors are what a contrastive head and a search compare.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import nn

from zoo.errors import DataError
from zoo.registry import register
from zoo.types import TEACHER, Accepts, Batch, Encoded, EncoderSpec, HeadOutput


@register("head")
class Distill(nn.Module):
    """Bring the pooled vector to the teacher's direction: the loss is 1 minus their cosine.

    Args:
        inputs: what the encoder gives.
        teacher_dim: length of the teacher's vectors; where it is not the encoder's a linear layer stands between. None: the same.

    Raises:
        DataError: (forward) the batch holds no teacher's vectors, or they are of another length.
    """

    accepts = Accepts(modalities=("image", "audio", "text"), reads="pooled")
    verbs: tuple[str, ...] = ()
    needs_teacher = True

    def __init__(self, *, inputs: Mapping[str, EncoderSpec], teacher_dim: int | None = None) -> None:
        super().__init__()
        ((self.modality, spec),) = inputs.items()
        self.teacher_dim = spec.dim if teacher_dim is None else teacher_dim
        self.project = nn.Identity() if self.teacher_dim == spec.dim else nn.Linear(spec.dim, self.teacher_dim)

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Loss over this rank's items; ``outputs`` holds the vectors."""
        pooled, target = encoded[self.modality].pooled, batch.targets.get(TEACHER)
        assert pooled is not None
        if target is None:
            raise DataError("the batch holds no teacher's vectors; name a teacher with teacher=PATH (a saved model or its directory)")
        if target.shape[-1] != self.teacher_dim:
            raise DataError(
                f"the teacher's vectors have {target.shape[-1]} numbers, the head expects {self.teacher_dim}; set "
                f"system.head.teacher_dim={target.shape[-1]}"
            )
        vectors = self.project(pooled)
        cosine = F.cosine_similarity(vectors.float(), target.float(), dim=-1).mean()
        return HeadOutput(1 - cosine, {"cosine": cosine.detach()}, {self.modality: vectors})

"""Contrastive head: two modalities in one space.

Papers: Radford et al. 2021 (CLIP, arXiv 2103.00020); Zhai et al. 2023 (SigLIP, arXiv 2303.15343). References: openai/CLIP,
open_clip ``loss.py``, big_vision ``siglip.py``.

Where we differ: any two modalities; items with equal meaning may share their targets (``positives="groups"``).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.distributed import gather
from zoo.errors import ConfigError, DataError, name_choices
from zoo.losses import info_nce, sigmoid_loss
from zoo.registry import register
from zoo.types import Accepts, Batch, Encoded, EncoderSpec, HeadOutput, SystemLike

LOSSES = ("info_nce", "sigmoid")
POSITIVES = ("pairs", "groups")
PROJECTIONS = ("linear", "linear_bias", "none")


@register("head")
class CLIPHead(nn.Module):
    """Project both pooled vectors to ``embed_dim``, normalise them, and contrast them over the global batch.

    Args:
        inputs: what each encoder gives, by modality.
        loss: "info_nce" (softmax over the batch) or "sigmoid" (SigLIP).
        positives: "pairs": item i matches only item i; "groups": items of equal ``batch.targets["groups"]`` match too.
        projections: by modality "linear" (no bias, CLIP), "linear_bias" (SigLIP's text) or "none"; a single word serves all.
        logit_scale: initial factor on the cosine (CLIP: 1 / 0.07); None takes the loss's own (SigLIP: 10).
        logit_scale_max: the learned factor is clamped to [1, logit_scale_max] after each step; None leaves it free.
        logit_bias: initial bias, only for the sigmoid loss.

    Raises:
        ConfigError: an unknown word, or widths that cannot meet without a projection.
    """

    accepts = Accepts(modalities=("image", "audio", "text"), minimum=2, maximum=2, reads="pooled")
    verbs = ("embed", "classify", "class_vectors", "score")
    evaluation = "zero_shot"

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        embed_dim: int = 512,
        loss: str = "info_nce",
        positives: str = "pairs",
        projections: str | dict[str, str] = "linear",
        logit_scale: float | None = None,
        logit_scale_max: float | None = 100.0,
        logit_bias: float = -10.0,
    ) -> None:
        super().__init__()
        for key, value, legal in (("loss", loss, LOSSES), ("positives", positives, POSITIVES)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        self.loss_name, self.positives, self.logit_scale_max = loss, positives, logit_scale_max
        self.embed_dim = embed_dim
        words = dict.fromkeys(inputs, projections) if isinstance(projections, str) else projections
        self.projections = nn.ModuleDict({m: _projection(m, spec.dim, embed_dim, words.get(m, "linear")) for m, spec in inputs.items()})
        initial = logit_scale if logit_scale is not None else (10.0 if loss == "sigmoid" else 1 / 0.07)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(initial)))
        self.logit_bias = nn.Parameter(torch.tensor(float(logit_bias))) if loss == "sigmoid" else None

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Loss over the global batch: every rank gathers all features and computes the same value."""
        names = sorted(self.projections)
        missing = [name for name in names if name not in encoded]
        if missing:
            raise DataError(f"the batch holds no {' and no '.join(missing)}; head 'clip' needs {' and '.join(names)}")
        first, second = (gather(self.project(name, encoded[name])) for name in names)
        groups = gather(batch.targets["groups"]) if self.positives == "groups" else None
        scale = self.logit_scale.exp()
        if self.logit_bias is None:
            loss = info_nce(first, second, scale, groups)
        else:
            loss = sigmoid_loss(first, second, scale, self.logit_bias, groups)
        return HeadOutput(loss, {"logit_scale": scale.detach()}, {names[0]: first, names[1]: second})

    def project(self, modality: str, encoded: Encoded) -> Float[Tensor, "batch embed_dim"]:
        """Unit vector of each item."""
        assert encoded.pooled is not None
        return F.normalize(self.projections[modality](encoded.pooled).float(), dim=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp the temperature, as open_clip does after each optimizer step."""
        if self.logit_scale_max is not None:
            self.logit_scale.clamp_(0.0, math.log(self.logit_scale_max))

    @torch.inference_mode()
    def embed(self, system: SystemLike, modality: str, inputs: Any, *, batch_size: int = 64) -> Float[Tensor, "n embed_dim"]:
        """Embed raw inputs or a ready tensor as unit vectors.

        Raises:
            ConfigError: the system has no encoder of that modality.
            DataError: an input cannot be read, or there is none.
        """
        if modality not in self.projections:
            raise ConfigError(f"modality: this system embeds {' and '.join(self.projections)}, not {modality!r}")
        inputs = [inputs] if isinstance(inputs, str) else inputs
        if len(inputs) == 0:
            raise DataError(f"nothing to embed: the list of {modality} inputs is empty; give at least one")
        parts = (inputs[i : i + batch_size] for i in range(0, len(inputs), batch_size))
        return torch.cat([self.project(modality, system.encode(modality, part)) for part in parts])

    @torch.inference_mode()
    def class_vectors(self, system: SystemLike, labels: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "labels embed_dim"]:
        """One unit vector per label: the normalised mean over its prompts' unit vectors (CLIP, section 3.1.4).

        Raises:
            DataError: no labels, an empty one, one given twice, or a template without ``{}``.
        """
        refuse_labels(labels, templates)
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        vectors = self.embed(system, "text", prompts).unflatten(0, (len(labels), len(templates)))  # [labels, templates, embed_dim]
        return F.normalize(vectors.mean(1), dim=-1)

    @torch.inference_mode()
    def classify(
        self, system: SystemLike, inputs: Any, labels: Sequence[str], *, templates: Sequence[str] = ("a photo of a {}.",)
    ) -> Float[Tensor, "n labels"]:
        """Probability of each label for each image (or sound): softmax over labels, or sigmoids for a SigLIP head.

        Raises:
            DataError: no labels, an empty one, one given twice, or a template without ``{}``.
        """
        other = next((name for name in self.projections if name != "text"), "image")
        return self.score(system, other, inputs, self.class_vectors(system, labels, templates))

    @torch.inference_mode()
    def score(
        self, system: SystemLike, modality: str, inputs: Any, vectors: Float[Tensor, "labels embed_dim"]
    ) -> Float[Tensor, "n labels"]:
        """``classify`` with class vectors that were made before."""
        logits = self.logit_scale.exp() * self.embed(system, modality, inputs) @ vectors.T
        return (logits + self.logit_bias).sigmoid() if self.logit_bias is not None else logits.softmax(-1)


def refuse_labels(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Raise DataError for labels or templates that cannot make a classifier."""
    if isinstance(labels, str) or not labels:
        raise DataError(f"labels: got {labels!r}; give a list of at least one label")
    empty = [i for i, label in enumerate(labels, 1) if not label.strip()]
    if empty:
        raise DataError(f"labels: label {empty[0]} of {len(labels)} is empty; remove it or write its name")
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        raise DataError(f"labels: {', '.join(map(repr, twice))} given more than once; each label may stand once")
    if isinstance(templates, str) or not templates:
        raise DataError(f"templates: got {templates!r}; give a list of at least one, for example 'a photo of a {{}}.'")
    without = [template for template in templates if "{}" not in template]
    if without:
        raise DataError(f"templates: {without[0]!r} has no {{}} where the label goes")


def _projection(modality: str, dim: int, embed_dim: int, word: str) -> nn.Module:
    if word not in PROJECTIONS:
        raise ConfigError(f"projections.{modality}: there is no {word!r}; {name_choices(word, PROJECTIONS)}")
    if word == "none":
        if dim != embed_dim:
            raise ConfigError(
                f"projections.{modality}: 'none' needs the encoder's dim {dim} to equal embed_dim {embed_dim}; "
                f"choose 'linear', or set embed_dim to {dim}"
            )
        return nn.Identity()
    linear = nn.Linear(dim, embed_dim, bias=word == "linear_bias")
    nn.init.normal_(linear.weight, std=dim**-0.5)
    return linear

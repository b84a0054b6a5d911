"""Contrastive head: two modalities in one space.

Papers: Radford et al. 2021 (CLIP, arXiv 2103.00020); Zhai et al. 2023 (SigLIP, arXiv 2303.15343). References: openai/CLIP,
open_clip ``loss.py``, big_vision ``siglip.py``.

Where we differ: any two modalities; items with equal meaning may share their targets (``positives="groups"``).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.losses import info_nce, local_info_nce, local_sigmoid_loss, sigmoid_loss
from zoo.losses.distributed import gather
from zoo.registry import register
from zoo.types import Accepts, Batch, Encoded, EncoderSpec, HeadOutput, SystemLike

LOSSES = ("info_nce", "sigmoid")
GATHERS = ("local", "global")
POSITIVES = ("pairs", "groups")
PROJECTIONS = ("linear", "linear_bias", "mlp", "none")
ITEMS_AT_ONCE = 64  # images or sounds
TOKENS_AT_ONCE = 2**15  # of texts, if all were as long as may be: 425 texts of CLIP's 77; more would leave the processor's cache


@register("head")
class CLIPHead(nn.Module):
    """Project both pooled vectors to ``embed_dim``, normalise them, and contrast them over the global batch.

    Args:
        inputs: what each encoder gives, by modality.
        loss: "info_nce" (softmax over the batch) or "sigmoid" (SigLIP).
        positives: "pairs": item i matches only item i; "groups": items of equal ``batch.targets["groups"]`` match too.
        projections: by modality "linear" (no bias, CLIP), "linear_bias" (SigLIP's text), "mlp" (LayerNorm, then two linear layers with
            GELU between) or "none"; a single word serves all.
        logit_scale: initial factor on the cosine (CLIP: 1 / 0.07); None takes the loss's own (SigLIP: 10).
        logit_scale_max: the learned factor is clamped to [1, logit_scale_max] after each step; None leaves it free.
        logit_bias: initial bias, only for the sigmoid loss.
        dropout: in training, share of a pooled vector's numbers that its projection does not see.
        gather: how several processes compute the loss of the global batch, with equal gradients: "local": each its own rows
            against the columns of all; "global": each the whole, which costs as many times more as there are processes.

    Raises:
        ConfigError: an unknown word, or widths that cannot meet without a projection.
    """

    accepts = Accepts(modalities=("image", "audio", "text"), minimum=2, maximum=2, reads="pooled")
    verbs = ("embed", "classify", "class_vectors", "prompt_vectors", "score")
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
        dropout: float = 0.0,
        gather: str = "local",
    ) -> None:
        super().__init__()
        for key, value, legal in (("loss", loss, LOSSES), ("positives", positives, POSITIVES), ("gather", gather, GATHERS)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        self.loss_name, self.positives, self.gather, self.logit_scale_max = loss, positives, gather, logit_scale_max
        self.embed_dim, self.dropout = embed_dim, nn.Dropout(dropout)
        words = dict.fromkeys(inputs, projections) if isinstance(projections, str) else projections
        self.projections = nn.ModuleDict(
            {m: _projection(m, spec.dim, embed_dim, words.get(m, "linear"), dropout) for m, spec in inputs.items()}
        )
        initial = logit_scale if logit_scale is not None else (10.0 if loss == "sigmoid" else 1 / 0.07)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(initial)))
        self.logit_bias = nn.Parameter(torch.tensor(float(logit_bias))) if loss == "sigmoid" else None

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Loss over the global batch, the same value on every rank; the outputs are this rank's vectors."""
        missing = [name for name in sorted(self.projections) if name not in encoded]
        if missing:
            names = " and ".join(sorted(self.projections))
            raise DataError(f"the batch holds no {' and no '.join(missing)}; head 'clip' needs {names}")
        return self.loss_of(self.features(encoded), batch.targets)

    def features(self, encoded: dict[str, Encoded]) -> dict[str, Float[Tensor, "batch embed_dim"]]:
        """Unit vector of each item, by modality. The loss depends on these alone."""
        return {modality: self.project(modality, encoded[modality]) for modality in self.projections if modality in encoded}

    def loss_of(self, features: Mapping[str, Float[Tensor, "batch embed_dim"]], targets: Mapping[str, Tensor]) -> HeadOutput:
        """Loss of this rank's features and those of the other ranks."""
        first, second = (features[name] for name in sorted(self.projections))
        groups = targets["groups"] if self.positives == "groups" else None
        losses = {"local": (local_info_nce, local_sigmoid_loss), "global": (info_nce, sigmoid_loss)}
        softmax_form, sigmoid_form = losses[self.gather]
        if self.gather == "global":
            first, second, groups = gather(first), gather(second), None if groups is None else gather(groups)
        scale = self.logit_scale.exp()
        if self.logit_bias is None:
            loss = softmax_form(first, second, scale, groups)
        else:
            loss = sigmoid_form(first, second, scale, self.logit_bias, groups)
        return HeadOutput(loss, {"logit_scale": scale.detach()}, dict(features))

    def project(self, modality: str, encoded: Encoded) -> Float[Tensor, "batch embed_dim"]:
        """Unit vector of each item."""
        assert encoded.pooled is not None
        projection = self.projections[modality]
        pooled = encoded.pooled if isinstance(projection, nn.Identity) else self.dropout(encoded.pooled)
        return F.normalize(projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp the temperature, as open_clip does after each optimizer step."""
        if self.logit_scale_max is not None:
            self.logit_scale.clamp_(0.0, math.log(self.logit_scale_max))

    @torch.inference_mode()
    def embed(self, system: SystemLike, modality: str, inputs: Any, *, batch_size: int | None = None) -> Float[Tensor, "n embed_dim"]:
        """Embed raw inputs or a ready tensor as unit vectors.

        Texts go in alphabetical order, each once: a causal text tower computes what texts of a batch begin with once for all.

        Args:
            batch_size: items at once; None chooses.

        Raises:
            ConfigError: the system has no encoder of that modality.
            DataError: an input cannot be read, or there is none.
        """
        if modality not in self.projections:
            raise ConfigError(f"modality: this system embeds {' and '.join(self.projections)}, not {modality!r}")
        inputs = [inputs] if isinstance(inputs, str | bytes | Path) else inputs
        if len(inputs) == 0:
            raise DataError(f"nothing to embed: the list of {modality} inputs is empty; give at least one")
        longest: int = getattr(system.encoders[modality], "context_length", 0)
        if batch_size is None:
            batch_size = max(1, TOKENS_AT_ONCE // longest) if longest else ITEMS_AT_ONCE
        if modality != "text" or isinstance(inputs, Tensor) or not all(isinstance(item, str) for item in inputs):
            return self._embed(system, modality, inputs, batch_size)
        place = {item: i for i, item in enumerate(sorted(set(inputs)))}
        vectors = self._embed(system, modality, list(place), batch_size)
        return vectors[torch.tensor([place[item] for item in inputs], device=vectors.device)]

    def _embed(self, system: SystemLike, modality: str, inputs: Any, batch_size: int) -> Float[Tensor, "n embed_dim"]:
        parts = (inputs[i : i + batch_size] for i in range(0, len(inputs), batch_size))
        return torch.cat([self.project(modality, system.encode(modality, part, reads="pooled")) for part in parts])

    @torch.inference_mode()
    def class_vectors(self, system: SystemLike, labels: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "labels embed_dim"]:
        """One unit vector per label, from every template with the label in it; ``prompt_vectors`` takes ready prompts.

        Raises:
            DataError: no labels, an empty one, one given twice, or a template without ``{}``.
        """
        refuse_labels(labels, templates)
        return self.prompt_vectors(system, [[template.replace("{}", label) for template in templates] for label in labels])

    @torch.inference_mode()
    def prompt_vectors(self, system: SystemLike, prompts: Sequence[Sequence[str]]) -> Float[Tensor, "classes embed_dim"]:
        """One unit vector per class: the normalised mean over its prompts' unit vectors (CLIP, section 3.1.4).

        Args:
            prompts: whole texts, a list of at least one for each class; numbers may differ.

        Raises:
            DataError: no class, or one without prompts.
        """
        refuse_prompts(prompts)
        vectors = self.embed(system, "text", [prompt for own in prompts for prompt in own])  # [prompts, embed_dim]
        means = [own.mean(0) for own in vectors.split([len(own) for own in prompts])]
        return F.normalize(torch.stack(means), dim=-1)

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
    twice = sorted(label for label, times in Counter(labels).items() if times > 1)
    if twice:
        raise DataError(f"labels: {', '.join(map(repr, twice))} given more than once; each label may stand once")
    if isinstance(templates, str) or not templates:
        raise DataError(f"templates: got {templates!r}; give a list of at least one, for example 'a photo of a {{}}.'")
    without = [template for template in templates if "{}" not in template]
    if without:
        raise DataError(f"templates: {without[0]!r} has no {{}} where the label goes")


def refuse_prompts(prompts: Sequence[Sequence[str]]) -> None:
    """Raise DataError for prompts that cannot make a classifier."""
    if not prompts:
        raise DataError("prompts: there are no classes; give a list of prompts for each of at least one")
    for number, own in enumerate(prompts, 1):
        if isinstance(own, str) or not own:
            raise DataError(f"prompts: class {number} of {len(prompts)} has {own!r}; give a list of at least one text")


def _projection(modality: str, dim: int, embed_dim: int, word: str, dropout: float) -> nn.Module:
    if word not in PROJECTIONS:
        raise ConfigError(f"projections.{modality}: there is no {word!r}; {name_choices(word, PROJECTIONS)}")
    if word == "none":
        if dim != embed_dim:
            raise ConfigError(
                f"projections.{modality}: 'none' needs the encoder's dim {dim} to equal embed_dim {embed_dim}; "
                f"choose 'linear', or set embed_dim to {dim}"
            )
        return nn.Identity()
    if word == "mlp":
        layers = (nn.LayerNorm(dim), nn.Linear(dim, embed_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(embed_dim, embed_dim))
        return nn.Sequential(*layers)
    linear = nn.Linear(dim, embed_dim, bias=word == "linear_bias")
    nn.init.normal_(linear.weight, std=dim**-0.5)
    return linear

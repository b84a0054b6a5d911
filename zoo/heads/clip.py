"""Contrastive head: embeddings of two modalities or more in one space (CLIP, SigLIP, CLAP, ImageBind).

Papers: Radford et al. 2021 (CLIP, arXiv 2103.00020); Zhai et al. 2023 (SigLIP, arXiv 2303.15343); Wu et al. 2022 (CLAP, arXiv 2211.06687);
Girdhar et al. 2023 (ImageBind, arXiv 2305.05665). References: openai/CLIP, open_clip ``loss.py``, big_vision ``siglip.py``.

Differences: any two modalities; items of one group may be positives of each other (``positives="groups"``).
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
from zoo.heads.bases.anchored import AnchoredPairs
from zoo.losses import directed_info_nce, info_nce, local_info_nce, local_sigmoid_loss, sigmoid_loss
from zoo.losses.distributed import gather
from zoo.registry import register
from zoo.types import Accepts, Batch, Encoded, EncoderSpec, FeatureHead, HeadOutput, SystemLike, in_parts

LOSSES = ("info_nce", "sigmoid")
GATHERS = ("local", "global")
POSITIVES = ("pairs", "groups")
PROJECTIONS = ("linear", "linear_bias", "mlp", "mlp_relu", "mlp_and_input", "none")
ITEMS_AT_ONCE = 64  # images or recordings per batch
TOKENS_AT_ONCE = 2**15  # per batch of texts of full length: 425 texts of CLIP's 77 tokens; more no longer fit into the CPU's cache


@register("head")
class CLIPHead(FeatureHead):
    """Projections of pooled vectors to unit vectors of ``embed_dim``, with a contrastive loss over the global batch.

    Args:
        inputs: output specs of the encoders, by modality.
        embed_dim: width of the shared space.
        loss: "info_nce" (softmax over the batch) or "sigmoid" (SigLIP).
        positives: "pairs": item i matches only item i; "groups": items of equal ``batch.targets["groups"]`` match too; without
            such a target each pair is its own group, on all processes.
        projections: by modality "linear" (no bias, CLIP), "linear_bias" (SigLIP's text), "mlp" (LayerNorm, then two linear layers with
            GELU between), "mlp_relu" (CLAP: two linear layers with ReLU between), "mlp_and_input" (for a fused image encoder: the result
            of an "mlp" and the input itself, each as a unit vector, side by side) or "none"; a single string holds for all modalities.
        logit_scale: initial factor on the cosine; None takes the default of the loss (CLIP: 1 / 0.07; SigLIP: 10).
        logit_scale_max: the learned factor is clamped to [1, logit_scale_max] after each step; None does not clamp it.
        logit_bias: initial bias; used only by the sigmoid loss.
        dropout: rate on the pooled vectors before the projection, in training.
        gather: computation of the global loss by several processes, with equal gradients. "local": each process computes its own rows
            against the columns of all. "global": each process computes all rows, at a cost that grows with the number of processes.
        two_scales: learn a factor for each direction (CLAP): ``logit_scale`` where the first modality of the alphabet is the query, and
            ``logit_scale_second`` where the other one is.
        anchor: the modality that is paired with each other one, as ImageBind's image; with three encoders it must be given. An item may
            lack modalities (``batch.targets["present_audio"]``); a pair counts the items that have both. Each pair has its own factor.
        fixed_scales: with an anchor, factors that are not learned, by the other modality (ImageBind: 20 for audio).

    Raises:
        ConfigError: a keyword has an unknown value, keywords contradict each other, or ``projections="none"`` with an encoder width other
            than ``embed_dim``.
    """

    accepts = Accepts(modalities=("image", "audio", "text"), minimum=2, maximum=3, reads="pooled")
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
        two_scales: bool = False,
        anchor: str | None = None,
        fixed_scales: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        for key, value, legal in (("loss", loss, LOSSES), ("positives", positives, POSITIVES), ("gather", gather, GATHERS)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        _refuse_mixed(loss, gather, len(inputs), two_scales=two_scales, anchor=anchor, fixed_scales=fixed_scales)
        self.loss_name, self.positives, self.gather, self.logit_scale_max = loss, positives, gather, logit_scale_max
        self.embed_dim, self.dropout = embed_dim, nn.Dropout(dropout)
        kinds = dict.fromkeys(inputs, projections) if isinstance(projections, str) else projections
        self.projections = nn.ModuleDict(
            {m: _projection(m, spec.dim, embed_dim, kinds.get(m, "linear"), dropout) for m, spec in inputs.items()}
        )
        initial = logit_scale if logit_scale is not None else (10.0 if loss == "sigmoid" else 1 / 0.07)
        # The logarithm of the factor, as in CLIP: it stays positive. With an anchor there is one for each pair instead.
        self.logit_scale = nn.Parameter(torch.tensor(math.log(initial))) if anchor is None else None
        self.logit_scale_second = nn.Parameter(torch.tensor(math.log(initial))) if two_scales else None
        self.pairs = None if anchor is None else AnchoredPairs(inputs, anchor=anchor, initial=initial, fixed=fixed_scales)
        # -10 because nearly all pairs are negatives: the loss starts small instead of pushing all of them apart (SigLIP, section 3.2).
        self.logit_bias = nn.Parameter(torch.tensor(float(logit_bias))) if loss == "sigmoid" else None

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss over the global batch, equal on every rank; ``outputs`` holds this rank's unit vectors by modality.

        Raises:
            DataError: the batch lacks one of two modalities, or with an anchor all of them.
        """
        missing = [name for name in sorted(self.projections) if name not in encoded]
        if missing and (self.pairs is None or len(missing) == len(self.projections)):
            names = " and ".join(sorted(self.projections))
            raise DataError(f"the batch holds no {' and no '.join(missing)}; head 'clip' needs {names}")
        return self.loss_of(self.features(encoded), batch.targets)

    def features(self, encoded: dict[str, Encoded]) -> dict[str, Float[Tensor, "_ embed_dim"]]:
        """Return the unit vector of each item, by modality; the loss is a function of these and the targets."""
        return {modality: self.project(modality, encoded[modality]) for modality in self.projections if modality in encoded}

    def loss_of(self, features: Mapping[str, Float[Tensor, "_ embed_dim"]], targets: Mapping[str, Tensor]) -> HeadOutput:
        """Return the loss over the features of all ranks, given those of this rank."""
        groups = targets.get("groups") if self.positives == "groups" else None  # None: pairs alone, also across processes
        if self.pairs is not None:
            loss, metrics = self.pairs(features, targets, groups)
            return HeadOutput(loss, metrics, dict(features))
        first, second = (features[name] for name in sorted(self.projections))  # sorted: all ranks must agree on the order
        assert self.logit_scale is not None
        scale = self.logit_scale.exp()
        if self.logit_scale_second is not None:
            other = self.logit_scale_second.exp()
            metrics = {"logit_scale": scale.detach(), "logit_scale_second": other.detach()}
            return HeadOutput(directed_info_nce(first, second, scale, other, groups), metrics, dict(features))
        losses = {"local": (local_info_nce, local_sigmoid_loss), "global": (info_nce, sigmoid_loss)}
        softmax_form, sigmoid_form = losses[self.gather]
        if self.gather == "global":
            first, second, groups = gather(first), gather(second), None if groups is None else gather(groups)
        if self.logit_bias is None:
            loss = softmax_form(first, second, scale, groups)
        else:
            loss = sigmoid_form(first, second, scale, self.logit_bias, groups)
        return HeadOutput(loss, {"logit_scale": scale.detach()}, dict(features))

    def project(self, modality: str, encoded: Encoded) -> Float[Tensor, "batch embed_dim"]:
        """Return the unit vector of each item of one modality."""
        assert encoded.pooled is not None
        projection = self.projections[modality]
        pooled = encoded.pooled if isinstance(projection, nn.Identity) else self.dropout(encoded.pooled)
        return F.normalize(projection(pooled).float(), dim=-1)  # fp32: cosines of bf16 vectors are too coarse for the loss

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp the logit scales, as open_clip does after each optimizer step."""
        if self.logit_scale_max is None:
            return
        if self.pairs is not None:
            self.pairs.clamp(self.logit_scale_max)
        for scale in (self.logit_scale, self.logit_scale_second):
            if scale is not None:
                scale.clamp_(0.0, math.log(self.logit_scale_max))

    def scale_of(self, modality: str) -> Float[Tensor, ""]:
        """Return the factor on the cosines of items of a modality, as queries, and texts."""
        if self.pairs is not None:
            other = next((name for name in ("text", *self.pairs.others) if name in self.pairs.others), "")
            return self.pairs.scale(other if modality == self.pairs.anchor else modality)
        assert self.logit_scale is not None
        second = self.logit_scale_second is not None and modality == max(self.projections)
        return (self.logit_scale_second if second else self.logit_scale).exp()  # type: ignore[union-attr]

    @torch.inference_mode()
    def embed(self, system: SystemLike, modality: str, inputs: Any, *, batch_size: int | None = None) -> Float[Tensor, "n embed_dim"]:
        """Embed raw inputs or a processed tensor as unit vectors, in the order of the inputs.

        Repeated texts are encoded once. Texts are encoded in alphabetical order: a causal text tower computes the common beginning of
        the texts of a batch only once.

        Args:
            system: the system of this head.
            modality: the modality of the inputs.
            inputs: one path or text, a list of raw inputs, a processed tensor, or a batch (pictures as lists of patches).
            batch_size: items that are encoded at once; None chooses it by the length of the texts.

        Raises:
            ConfigError: the system has no encoder of that modality.
            DataError: an input cannot be read, or ``inputs`` is empty.
        """
        if modality not in self.projections:
            raise ConfigError(f"modality: this system embeds {' and '.join(self.projections)}, not {modality!r}")
        inputs = [inputs] if isinstance(inputs, str | bytes | Path) else inputs
        if len(inputs) == 0:
            raise DataError(f"nothing to embed: the list of {modality} inputs is empty; give at least one")
        longest = system.encoders[modality].context_length or 0
        if batch_size is None:
            batch_size = max(1, TOKENS_AT_ONCE // longest) if longest else ITEMS_AT_ONCE
        if modality != "text" or isinstance(inputs, Tensor) or not all(isinstance(item, str) for item in inputs):
            return self._embed(system, modality, inputs, batch_size)
        place = {item: i for i, item in enumerate(sorted(set(inputs)))}
        vectors = self._embed(system, modality, list(place), batch_size)
        # Back to the order of the inputs, with repetitions.
        return vectors[torch.tensor([place[item] for item in inputs], device=vectors.device)]

    def _embed(self, system: SystemLike, modality: str, inputs: Any, batch_size: int) -> Float[Tensor, "n embed_dim"]:
        parts = in_parts(inputs, modality, batch_size)
        return torch.cat([self.project(modality, system.encode(modality, part, reads="pooled")) for part in parts])

    @torch.inference_mode()
    def class_vectors(self, system: SystemLike, labels: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "labels embed_dim"]:
        """Return one unit vector per label, computed from every template with the label filled in.

        ``prompt_vectors`` does the same for complete prompts.

        Args:
            system: the system of this head.
            labels: names of the classes, unique and not empty.
            templates: texts in which ``{}`` is replaced by the label.

        Raises:
            DataError: there are no labels, a label is empty or repeated, labels that differ only in case are one text for the text
                encoder, or a template has no ``{}``.
        """
        refuse_labels(labels, templates)
        # Not str.format: labels and templates may contain other braces.
        vectors = self.prompt_vectors(system, [[template.replace("{}", label) for template in templates] for label in labels])
        refuse_equal(labels, vectors)
        return vectors

    @torch.inference_mode()
    def prompt_vectors(self, system: SystemLike, prompts: Sequence[Sequence[str]]) -> Float[Tensor, "classes embed_dim"]:
        """Return one unit vector per class: the normalised mean over its prompts' unit vectors (CLIP, section 3.1.4).

        Args:
            system: the system of this head.
            prompts: complete texts, a list of one or more per class; the numbers may differ between classes.

        Raises:
            DataError: there are no classes, or a class has no prompts.
        """
        refuse_prompts(prompts)
        vectors = self.embed(system, "text", [prompt for own in prompts for prompt in own])  # [prompts, embed_dim]
        means = [own.mean(0) for own in vectors.split([len(own) for own in prompts])]
        return F.normalize(torch.stack(means), dim=-1)

    @torch.inference_mode()
    def classify(
        self,
        system: SystemLike,
        inputs: Any,
        labels: Sequence[str],
        *,
        templates: Sequence[str] = ("a photo of a {}.",),
        modality: str | None = None,
    ) -> Float[Tensor, "n labels"]:
        """Return the probability of each label for each image or recording: a softmax over labels, or sigmoids for the sigmoid loss.

        Args:
            system: the system of this head.
            inputs: images or recordings, as for ``embed``.
            labels: names of the classes, unique and not empty.
            templates: texts in which ``{}`` is replaced by the label.
            modality: of the inputs; None takes the first encoder that is not of text.

        Raises:
            DataError: there are no labels, a label is empty or repeated, or a template has no ``{}``.
        """
        other = next((name for name in self.projections if name != "text"), "image")
        return self.score(system, modality or other, inputs, self.class_vectors(system, labels, templates))

    @torch.inference_mode()
    def score(
        self, system: SystemLike, modality: str, inputs: Any, vectors: Float[Tensor, "labels embed_dim"]
    ) -> Float[Tensor, "n labels"]:
        """Return the probabilities of ``classify`` for class vectors that ``class_vectors`` or ``prompt_vectors`` returned."""
        logits = self.scale_of(modality) * self.embed(system, modality, inputs) @ vectors.T
        return (logits + self.logit_bias).sigmoid() if self.logit_bias is not None else logits.softmax(-1)


def _refuse_mixed(
    loss: str, gather: str, encoders: int, *, two_scales: bool, anchor: str | None, fixed_scales: Mapping[str, float] | None
) -> None:
    """Raise ConfigError for keywords that cannot be given together."""
    if anchor is None and encoders > 2:
        raise ConfigError(f"anchor: missing with {encoders} encoders; name the modality that is paired with each other one, such as image")
    if anchor is None and fixed_scales:
        raise ConfigError(f"fixed_scales: got {dict(fixed_scales)} without an anchor; set anchor, or remove fixed_scales")
    special = "anchor" if anchor is not None else "two_scales" if two_scales else ""
    if special and (loss != "info_nce" or gather != "local"):
        raise ConfigError(f"{special}: needs loss=info_nce and gather=local; got loss={loss} and gather={gather}")
    if anchor is not None and two_scales:
        raise ConfigError("two_scales: true with an anchor, which has a scale for each pair; give one of the two")


def refuse_labels(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Raise DataError if labels are missing, empty or repeated, or a template has no ``{}``."""
    if isinstance(labels, str) or not labels:
        raise DataError(f"labels: got {labels!r}; give a list of at least one label")
    empty = [i for i, label in enumerate(labels, 1) if not label.strip()]
    if empty:
        raise DataError(f"labels: label {empty[0]} of {len(labels)} is empty; remove it or give it a name")
    twice = sorted(label for label, times in Counter(labels).items() if times > 1)
    if twice:
        raise DataError(f"labels: {', '.join(map(repr, twice))} given more than once; labels must be unique")
    if isinstance(templates, str) or not templates:
        raise DataError(f"templates: got {templates!r}; give a list of at least one, for example 'a photo of a {{}}.'")
    without = [template for template in templates if "{}" not in template]
    if without:
        raise DataError(f"templates: {without[0]!r} has no {{}}; write {{}} in the place of the label")


def refuse_equal(labels: Sequence[str], vectors: Float[Tensor, "labels embed_dim"]) -> None:
    """Raise DataError if two labels that differ only in case or spaces have one vector, because the model reads small letters only."""
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(" ".join(label.casefold().split()), []).append(place)
    for first, *others in places.values():
        same = [labels[other] for other in others if torch.allclose(vectors[first], vectors[other], atol=1e-5)]
        if same:
            names = ", ".join(map(repr, [labels[first], *same]))
            raise DataError(f"labels: {names} are one text for this model, which does not tell their letters apart; give one of them")


def refuse_prompts(prompts: Sequence[Sequence[str]]) -> None:
    """Raise DataError if there are no classes, or a class has no list of prompts."""
    if not prompts:
        raise DataError("prompts: there are no classes; give a list of prompts for each class, and at least one class")
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
        return _mlp(dim, embed_dim, dropout)
    if word == "mlp_relu":
        return nn.Sequential(nn.Linear(dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, embed_dim))
    if word == "mlp_and_input":
        if dim >= embed_dim:
            raise ConfigError(
                f"projections.{modality}: 'mlp_and_input' keeps the encoder's {dim} numbers beside those of the mlp; set embed_dim "
                f"above {dim}"
            )
        return _AndInput(_mlp(dim, embed_dim - dim, dropout))
    linear = nn.Linear(dim, embed_dim, bias=word == "linear_bias")
    nn.init.normal_(linear.weight, std=dim**-0.5)  # as in OpenAI's CLIP
    return linear


def _mlp(dim: int, embed_dim: int, dropout: float) -> nn.Sequential:
    layers = (nn.LayerNorm(dim), nn.Linear(dim, embed_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(embed_dim, embed_dim))
    return nn.Sequential(*layers)


class _AndInput(nn.Module):
    """Output of a module and its input, each at length 1, side by side: texts in a trained space and in their encoder's own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch embed_dim"]:
        return torch.cat([F.normalize(self.inner(x), dim=-1), F.normalize(x, dim=-1)], dim=-1)

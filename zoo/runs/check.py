"""Check a config: run one training step on the meta device, without weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from zoo.assembly.build import add_adapters, build_system
from zoo.assembly.summary import count, reads_of_system
from zoo.assembly.system import System
from zoo.data.denoising.denoising import Denoising
from zoo.data.masking import Masking
from zoo.errors import ConfigError, ZooError
from zoo.layers.low_precision.modes import simulate_precision
from zoo.layers.meta import ShortRecurrences, meta_device
from zoo.registry import label_of
from zoo.registry.construct import check_keywords, construct
from zoo.runs.data_setup import complete_config, facts_of_denoising, grouping_of, refuse_tiler, source_modalities
from zoo.runs.objective_setup import make_objective
from zoo.runs.weight_sources import weight_sources
from zoo.training.feature_cache import passes_of, refuse_unfrozen
from zoo.training.freeze import freeze, train_mode
from zoo.training.optim import parameter_groups
from zoo.training.settings import TrainingSettings
from zoo.types import MASKED, PREFIXES, TEACHER, TURNS, Batch, Encoded, Encoder, check_encoded, encode


@dataclass(frozen=True)
class Edge:
    """One connection that the check tried."""

    source: str
    target: str
    carries: str


@dataclass(frozen=True)
class CheckReport:
    """Result of a check: the connections of a training step, and numbers of parameters."""

    edges: list[Edge]
    parameters: int
    trainable: int


def check(config: Mapping[str, Any]) -> CheckReport:
    """Run one training step of a composed config (``zoo.assembly.compose.compose``) on the meta device.

    Args:
        config: with ``system``, ``data`` and ``training``.

    Raises:
        ConfigError: parts that do not fit; the message names the config key, both sides and the allowed values.
    """
    settings = construct(TrainingSettings, config["training"], "training")
    with ShortRecurrences():
        return _check(config, meta_step(config, settings, min(settings.batch_size, 4)))


def _check(config: Mapping[str, Any], step: "MetaStep") -> CheckReport:
    """Run the step, and note what passes from part to part."""
    system, batch, modalities = step.system, step.batch, step.modalities
    edges = [Edge("data.source", f"system.processor.{m}", "raw") for m in modalities]
    batch = system.head.prepare(batch)
    encoded = {m: _encode(system, m, batch, edges) for m in modalities if m in system.encoders}
    loss = _loss(system, encoded, batch)
    edges += _edges_of_conversations(system, batch, encoded)
    edges.append(Edge("system.head", "loss", f"scalar {str(loss.dtype).removeprefix('torch.')}"))
    _step(system, loss)
    return CheckReport(edges, count(system), sum(p.numel() for p in system.parameters() if p.requires_grad))


@dataclass(frozen=True)
class MetaStep:
    """System and batch of a training step on the meta device.

    Attributes:
        modalities: processors that read the source's samples.
    """

    system: System
    batch: Batch
    modalities: Sequence[str]

    def loss(self) -> Tensor:
        """Return the loss of a forward pass."""
        return cast(Tensor, self.system(self.batch).loss)  # ``check`` has found the mistakes

    def tokens(self) -> dict[str, int]:
        """Return the number of tokens of the batch by modality; of texts, those of the input."""
        with torch.no_grad():
            counts = {modality: encoded.mask.numel() for modality, encoded in self._encoded().items()}
        return counts | ({"text": self.batch.inputs["text"].numel()} if "text" in self.batch.inputs else {})

    def _encoded(self) -> dict[str, Encoded]:
        return {m: _encode(self.system, m, self.batch, []) for m in self.modalities if m in self.system.encoders}


def meta_step(config: Mapping[str, Any], settings: TrainingSettings, items: int) -> MetaStep:
    """Build the system of a composed config and a batch of ``items`` on the meta device.

    Raises:
        ConfigError: parts that do not fit.
    """
    system = _build(config, settings)
    modalities = source_modalities(config, system)
    return MetaStep(system, _make_batch(config, system, modalities, settings, items), modalities)


def _build(config: Mapping[str, Any], settings: TrainingSettings) -> System:
    """Build the system on the meta device as a run trains it: with adapters and frozen parts."""
    with meta_device():
        system = build_system(complete_config(config)["system"])
        add_adapters(system, settings.adapters, "training.adapters")
    if settings.quantise is not None:
        simulate_precision(system, settings.quantise, key="training.quantise")
    weight_sources(config, system)
    parameter_groups(system, 0.0, scales=settings.learning_rates)
    if settings.accumulation == "grad_cache":
        from zoo.training import grad_cache  # imports accelerate

        grad_cache.refuse(system)
    train_mode(system, freeze(system, settings.freeze))
    if settings.cache_features:
        _refuse_feature_cache(config, system, settings)
    return system


def _make_batch(config: Mapping[str, Any], system: System, modalities: Sequence[str], settings: TrainingSettings, items: int) -> Batch:
    """Return a batch on the meta device with the targets of objective, teacher and masking."""
    batch = system.processor.meta(modalities, items)  # type: ignore[union-attr]
    grouping_of(config["data"], system.processor)
    make_objective(config, system, settings)
    _add_teacher(system, batch, None if config.get("objective") else config.get("teacher"))
    _add_masked(system, batch, config["data"].get("masking"))
    _add_denoised(system, batch, config["data"])
    return batch


def _loss(system: System, encoded: Mapping[str, Encoded], batch: Batch) -> Tensor:
    """Return the head's loss.

    Raises:
        ConfigError: the head cannot use the encoders' outputs, or returns no loss.
    """
    try:
        output = system.head(dict(encoded), batch)
    except ZooError:
        raise
    except RuntimeError as error:
        raise ConfigError(f"system.head: cannot use the outputs of the encoders: {str(error).splitlines()[0]}") from error
    if output.loss is None:
        raise ConfigError("system.head: gives no loss for a batch of this source; choose another source (data=...)")
    return output.loss


def _refuse_feature_cache(config: Mapping[str, Any], system: System, settings: TrainingSettings) -> None:
    """Raise ConfigError if features cannot be cached: an encoder is trained, or a step needs the encoders' inputs."""
    head: Any = system.head
    if head.reads != ("pooled",):
        raise ConfigError(
            f"training.cache_features: keeps the pooled vectors of encoders, but head {type(head).__name__} reads their "
            f"{' and '.join(head.reads)}; set training.cache_features=0"
        )
    refuse_tiler(system, "training.cache_features", "keeps features of pictures of one size")
    refuse_unfrozen(dict(system.encoders))
    passes_of(list(system.encoders), settings.cache_features)
    given = {f"data.{key}": config["data"].get(key) for key in ("mix", "token_batches")}
    for key, value in {**given, "teacher": config.get("teacher"), "objective": config.get("objective")}.items():
        if value:
            raise ConfigError(f"training.cache_features: {key} needs the inputs themselves in every step; take one of the two away")


def _add_teacher(system: System, batch: Batch, teacher: Any) -> None:
    """Add a teacher's vectors to the batch if the head learns from a teacher.

    Raises:
        ConfigError: the config has a teacher and the head needs none, or the other way round.
    """
    head: Any = system.head
    wanted = head.needs_teacher
    if wanted and not teacher:
        raise ConfigError(f"teacher: head {type(head).__name__} learns from one; name a saved model with teacher=PATH")
    if teacher and not wanted:
        raise ConfigError(
            f"teacher: head {type(head).__name__} does not learn from one; choose head@system.head=distill, or take teacher away"
        )
    if wanted:
        batch.targets[TEACHER] = torch.empty(len(batch), head.teacher_dim, device="meta")


def _add_masked(system: System, batch: Batch, settings: Any) -> None:
    """Add masked tokens to the batch if the head predicts them.

    Raises:
        ConfigError: the config masks tokens and the head does not predict them, or the other way round.
    """
    wanted = system.head.needs_masking
    if wanted and settings is None:
        raise ConfigError(
            f"data.masking: null, but head {type(system.head).__name__} learns to predict hidden tokens; set data.masking={{}}"
        )
    if not wanted and settings is None:
        return
    if not wanted:
        raise ConfigError(
            f"data.masking: hides tokens, which head {type(system.head).__name__} does not learn to predict; set data.masking=null"
        )
    check_keywords(Masking, settings, "data.masking", {"tokenizer": None, "mask_token_id": None})
    if bool(settings.get("permutation")) != system.head.needs_turns:
        raise ConfigError(
            f"data.masking.permutation: {bool(settings.get('permutation'))}, but head {type(system.head).__name__} has permutation: "
            f"{system.head.needs_turns}; set both to the same value"
        )
    batch.targets[MASKED] = torch.empty_like(batch.inputs["text"])
    if system.head.needs_turns:
        batch.targets[TURNS] = batch.targets[MASKED]
    if settings.get("directions"):
        batch.targets[PREFIXES] = batch.targets[MASKED][:, 0]


def _add_denoised(system: System, batch: Batch, data: Mapping[str, Any]) -> None:
    """Add the targets of denoising to the batch if the config has it.

    Raises:
        ConfigError: the system cannot use it, or the config also masks tokens.
    """
    if data.get("denoising") is None:
        return
    if data.get("masking") is not None:
        raise ConfigError("data.denoising: is given beside data.masking; set one of the two to null")
    check_keywords(Denoising, data["denoising"], "data.denoising", dict.fromkeys(facts_of_denoising(system)))
    batch.targets.update(system.processor["target_text"].meta(len(batch)))  # type: ignore[index]


def _encode(system: System, modality: str, batch: Batch, edges: list[Edge]) -> Encoded:
    """Run an encoder, and add the edges from its processor and to the head."""
    x, key = batch.inputs[modality], f"system.encoders.{modality}"
    reads = "patches" if system.head.accepts.reads == "patches" else "tokens"
    try:
        given = {"grids": batch.grids.get(modality), **reads_of_system(system.head)}
        encoded = encode(cast(Encoder, system.encoders[modality]), x, batch.masks.get(modality), **given)
    except ZooError as error:
        raise ConfigError(f"{key}: {error}") from error
    except RuntimeError as error:
        raise ConfigError(f"{key}: cannot use {list(x.shape)} from system.processor.{modality}: {str(error).splitlines()[0]}") from error
    name, items = f"{key}: {label_of(system.encoders[modality])}", len(batch.grids.get(modality, x))  # of tiles, each is an item
    check_encoded(encoded, cast(Encoder, system.encoders[modality]), x, name, reads=reads, items=items)
    edges.append(Edge(f"system.processor.{modality}", key, f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"))
    pooled = "none" if encoded.pooled is None else list(encoded.pooled.shape)
    target = f"system.head.connectors.{modality}" if modality in system.head.connectors else "system.head"
    edges.append(Edge(key, target, f"tokens {list(encoded.tokens.shape)}, pooled {pooled}"))
    return encoded


def _edges_of_conversations(system: System, batch: Batch, encoded: Mapping[str, Encoded]) -> list[Edge]:
    """Return the inputs of the language model: token ids, and by modality the tokens that its connector makes."""
    head: Any = system.head
    if head.language is None:
        return []
    edges = [Edge("data.source", "system.processor.conversation", "raw")]
    edges.append(Edge("system.processor.conversation", "system.head.language", f"token ids {list(batch.inputs['text'].shape)}"))
    for modality, connector in head.connectors.items():
        tokens, _ = connector(encoded[modality].tokens, encoded[modality].mask)
        carries = f"tokens {list(tokens.shape)}, {tokens.shape[1]} of {encoded[modality].tokens.shape[1]} for each item"
        edges.append(Edge(f"system.head.connectors.{modality}", "system.head.language", carries))
    return edges


def _step(system: System, loss: Tensor) -> None:
    """Run backward and an update by plain subtraction, which has the shapes of any optimizer's step.

    Raises:
        ConfigError: no parameter gets a gradient.
    """
    if loss.requires_grad:
        loss.backward()
    trained = [p for p in system.parameters() if p.grad is not None]
    if not trained:
        raise ConfigError("training.freeze: no parameter gets a gradient, so nothing would be trained; leave a part out of it")
    with torch.no_grad():
        for parameter in trained:
            parameter.sub_(cast(Tensor, parameter.grad))

"""Try a config without weights: what a model costs, and whether a whole training step would run.

Everything here happens on the meta device: shapes flow, nothing is allocated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.alignment import make_objective
from zoo.build import add_adapters, build_system, create_model
from zoo.construct import check_keywords, construct
from zoo.counting import nominal_input
from zoo.data.masking import Masking
from zoo.data.packs import Packs
from zoo.data.processor import is_target
from zoo.errors import ConfigError, ZooError, name_choices
from zoo.layers.meta import meta_device
from zoo.registry import find_part
from zoo.system import System
from zoo.training import cached
from zoo.training.freeze import freeze, train_mode
from zoo.training.frozen import passes_of, refuse_unfrozen
from zoo.training.optim import parameter_groups
from zoo.training.settings import TrainingSettings
from zoo.types import MASKED, TEACHER, Batch, Encoded, Encoder, LanguageModel, encode, patches_of, reads_of


@dataclass(frozen=True)
class Summary:
    """What a model costs for one item.

    Attributes:
        parameters: number of parameters.
        trainable: those that a gradient reaches.
        flops: floating-point operations of one forward pass at the nominal input size (2 per multiply-add), by part and
            of all encoders under "total"; of a language model those of one token, which "total" leaves out.
        tokens: tokens that each encoder gives at the nominal input size, by modality, and what a connector makes of them.
        memory_bytes: of parameters and buffers.
        parts: parameters by part.
    """

    parameters: int
    trainable: int
    flops: dict[str, int]
    tokens: dict[str, int]
    memory_bytes: int
    parts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """One connection that the check tried."""

    source: str
    target: str
    carries: str


@dataclass(frozen=True)
class CheckReport:
    """What a training step would do."""

    edges: list[Edge]
    parameters: int
    trainable: int


def count(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters())


def summarize(name_or_model: str | nn.Module) -> Summary:
    """Count parameters, FLOPs, tokens and memory of a registered name or a model, without weights.

    Raises:
        ConfigError: unknown name.
    """
    model = create_model(name_or_model, device="meta") if isinstance(name_or_model, str) else name_or_model
    encoders = dict(model.encoders) if isinstance(model, System) else {}
    if hasattr(model, "modality"):
        encoders = {str(model.modality): model}
    head: Any = getattr(model, "head", None)
    reads = _reads(head) if isinstance(model, System) else {}
    tokens, flops = {}, {}
    for modality, encoder in encoders.items():
        encoded, flops[modality] = _trace(_Asked(encoder, reads), *nominal_input(modality, encoder))
        tokens[modality] = encoded.tokens.shape[1]
    tokens |= {
        f"{m} behind the connector": counts(nominal_input(m, encoders[m])[0][0]) for m, counts in getattr(head, "counts", {}).items()
    }
    total, language = sum(flops.values()), getattr(head, "language", model)
    if isinstance(language, LanguageModel):
        flops["language, each token"] = _trace(_NextToken(cast(nn.Module, language)), torch.zeros(1, 1, dtype=torch.int64, device="meta"))[
            1
        ]
    tensors = [*model.parameters(), *model.buffers()]
    parts = {f"encoders.{m}": count(e) for m, e in encoders.items()} | _parts_of_head(head) if isinstance(model, System) else {}
    return Summary(
        parameters=count(model),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops={**flops, "total": total},
        tokens=tokens,
        memory_bytes=sum(t.numel() * t.element_size() for t in tensors),
        parts=parts,
    )


def _reads(head: Any) -> dict[str, Any]:
    """How a system asks its encoders, as keywords of ``encode``: for all their tokens, unless its head reads patches."""
    return {"reads": "patches", **patches_of(head)} if head.accepts.reads == "patches" else {}


def _parts_of_head(head: nn.Module) -> dict[str, int]:
    """Parameters of a head; where there is a language model in it, of each of its parts."""
    if not hasattr(head, "language"):
        return {"head": count(head)}
    return {f"head.{name}": count(part) for name, part in head.named_children() if count(part)}


class _Asked(nn.Module):
    """An encoder that is asked in one way."""

    def __init__(self, encoder: nn.Module, reads: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.reads = encoder, dict(reads)

    def forward(self, x: Tensor, mask: Tensor | None) -> Encoded:
        return encode(cast(Encoder, self.encoder), x, mask, **self.reads)


class _NextToken(nn.Module):
    """A language model through to the scores of the next token."""

    def __init__(self, language: nn.Module) -> None:
        super().__init__()
        self.language = language

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.language.logits(self.language(token_ids))  # type: ignore[operator]


def _trace(module: nn.Module, *inputs: Tensor | None) -> tuple[Any, int]:
    """Run a module on the meta device; count FLOPs with fused attention taken apart."""
    from torch.utils.flop_counter import FlopCounterMode  # half a second, which a check does not need

    tensors = {k: v.detach().to("meta") for k, v in [*module.named_parameters(), *module.named_buffers()]}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = functional_call(module, tensors, inputs)
    return output, counter.get_total_flops()


def check(config: Mapping[str, Any]) -> CheckReport:
    """Run one training step of a composed config (``zoo.compose.compose``) on the meta device.

    Args:
        config: with ``system``, ``data`` and ``training``.

    Raises:
        ConfigError: parts that do not fit, with config key, both sides and legal choices.
    """
    settings = construct(TrainingSettings, config["training"], "training")
    with meta_device():
        system = build_system(complete_config(config)["system"])
        add_adapters(system, settings.adapters, "training.adapters")
    weight_sources(config, system)
    parameter_groups(system, 0.0, scales=settings.learning_rates)
    if settings.accumulation == "cached":
        cached.refuse(system)
    train_mode(system, freeze(system, settings.freeze))
    if settings.frozen_passes:
        _refuse_frozen_passes(config, system, settings)
    modalities = _source_modalities(config, system)
    batch = system.processor.meta(modalities, min(settings.batch_size, 4))  # type: ignore[union-attr]
    make_objective(config, system, settings.batch_size)
    _add_teacher(system, batch, None if config.get("objective") else config.get("teacher"))
    _add_masked(system, batch, config["data"].get("masking"))
    if config["data"].get("packing"):
        check_keywords(Packs, config["data"]["packing"], "data.packing", dict.fromkeys(("data", "seed", "tell")))
    edges = [Edge("data.source", f"system.processor.{m}", "raw") for m in modalities]
    encoded = {m: _encode(system, m, batch, edges) for m in modalities if m in system.encoders}
    try:
        output = system.head(encoded, batch)
    except ZooError:
        raise
    except RuntimeError as error:
        raise ConfigError(f"system.head: refuses what the encoders give: {str(error).splitlines()[0]}") from error
    if output.loss is None:
        raise ConfigError("system.head: gives no loss for a batch of this source; choose another source (data=...)")
    edges += _edges_of_conversations(system, batch, encoded)
    edges.append(Edge("system.head", "loss", f"scalar {str(output.loss.dtype).removeprefix('torch.')}"))
    _step(system, output.loss)
    return CheckReport(edges, count(system), sum(p.numel() for p in system.parameters() if p.requires_grad))


def _refuse_frozen_passes(config: Mapping[str, Any], system: System, settings: TrainingSettings) -> None:
    """Raise ConfigError where encoders cannot run once before training: they are trained, or something needs their inputs."""
    head: Any = system.head
    if reads_of(head) != ("pooled",):
        raise ConfigError(
            f"training.frozen_passes: keeps the pooled vectors of encoders, but head {type(head).__name__} reads their "
            f"{' and '.join(reads_of(head))}; set training.frozen_passes=0"
        )
    refuse_unfrozen(dict(system.encoders))
    passes_of(list(system.encoders), settings.frozen_passes)
    for key, value in (("data.mix", config["data"].get("mix")), ("teacher", config.get("teacher")), ("objective", config.get("objective"))):
        if value:
            raise ConfigError(f"training.frozen_passes: {key} needs the inputs themselves in every step; take one of the two away")


def _add_teacher(system: System, batch: Batch, teacher: Any) -> None:
    """Give a head that learns from a teacher its vectors; a teacher and no such head, or the other way round, is refused."""
    head: Any = system.head
    wanted = getattr(head, "needs_teacher", False)
    if wanted and not teacher:
        raise ConfigError(f"teacher: head {type(head).__name__} learns from one; name a saved model with teacher=PATH")
    if teacher and not wanted:
        raise ConfigError(
            f"teacher: head {type(head).__name__} does not learn from one; choose head@system.head=distill, or take teacher away"
        )
    if wanted:
        batch.targets[TEACHER] = torch.empty(len(batch), head.teacher_dim, device="meta")


def _add_masked(system: System, batch: Batch, words: Any) -> None:
    """Give a head that predicts hidden tokens some to predict; hiding them from another head, or from none, is refused."""
    wanted = getattr(system.head, "needs_masking", False)
    if wanted and words is None:
        raise ConfigError(
            f"data.masking: null, but head {type(system.head).__name__} learns to predict hidden tokens; set data.masking={{}}"
        )
    if not wanted and words is None:
        return
    if not wanted:
        raise ConfigError(
            f"data.masking: hides tokens, which head {type(system.head).__name__} does not learn to predict; set data.masking=null"
        )
    check_keywords(Masking, words, "data.masking", {"tokenizer": None, "mask_token_id": None})
    batch.targets[MASKED] = torch.empty_like(batch.inputs["text"])


def complete_config(config: Mapping[str, Any], source: Any = None) -> dict[str, Any]:
    """Fill in what the head takes from the data (``Head.from_source``), by the head's own ``complete``.

    Args:
        source: None asks the source's class, which may know without reading anything.

    Raises:
        ConfigError: the head's keywords and the source say different things.
    """
    system = config["system"]
    head = system.get("head")
    if not isinstance(head, Mapping) or "name" not in head:
        return dict(config)  # building the system says what is wrong
    part: Any = find_part("head", head["name"], "system.head.name")
    if not hasattr(part, "from_source"):
        return dict(config)
    keywords = check_keywords(part, {k: v for k, v in head.items() if k != "name"}, "system.head", {"inputs": None})
    asked = find_part("source", config["data"]["source"].get("name"), "data.source.name") if source is None else source
    try:
        completed = part.complete(keywords, **{fact: getattr(asked, fact, None) for fact in part.from_source})
    except ConfigError as error:
        raise ConfigError(f"system.head.{error}") from error
    return {**config, "system": {**system, "head": {"name": head["name"], **completed}}}


def weight_sources(config: Mapping[str, Any], system: System) -> dict[str, str]:
    """Where a run's first weights come from, by part: ``{"encoders.image": "runs/clip"}``; the part "" is the whole system.

    Raises:
        ConfigError: a part that the system does not have, or something that is no path.
    """
    sources = dict(_flattened(config.get("weights") or {}, ""))
    parts = dict(system.named_modules())
    for part, source in sources.items():
        key = f"weights.{part}".rstrip(".")
        if part not in parts:
            as_deep = [name for name in parts if name and name.count(".") <= part.count(".")]
            raise ConfigError(f"{key}: the system has no part {part!r}; {name_choices(part, as_deep)}")
        if not isinstance(source, str):
            raise ConfigError(f"{key}: got {source!r}; give a run directory, a saved model or a file of weights")
    return sources


def _flattened(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """``{"encoders": {"image": X}}`` as ``("encoders.image", X)``; None is left out."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _flattened(value, f"{key}.{name}".strip("."))
    elif node is not None:
        yield key, node


def _source_modalities(config: Mapping[str, Any], system: System) -> Sequence[str]:
    """What the source gives and the system uses; refuse a source that lacks something."""
    name = config["data"]["source"].get("name")
    given = find_part("source", name, "data.source.name").modalities
    for modality in system.encoders:
        if modality not in given:
            raise ConfigError(
                f"data.source: {name!r} gives {', '.join(given)}; system.encoders.{modality} needs {modality}: choose another "
                f"source (data=...) or an encoder of {' or '.join(given)}"
            )
    parts: Mapping[str, Any] = system.processor.parts  # type: ignore[union-attr]
    learnt = [name for name, part in parts.items() if is_target(part) and part.modality in given]
    return [*(m for m in given if m in parts), *learnt]


def _encode(system: System, modality: str, batch: Batch, edges: list[Edge]) -> Encoded:
    x, key = batch.inputs[modality], f"system.encoders.{modality}"
    try:
        encoded = encode(cast(Encoder, system.encoders[modality]), x, batch.masks.get(modality), **_reads(system.head))
    except ZooError as error:
        raise ConfigError(f"{key}: {error}") from error
    except RuntimeError as error:
        raise ConfigError(f"{key}: refuses {list(x.shape)} from system.processor.{modality}: {str(error).splitlines()[0]}") from error
    edges.append(Edge(f"system.processor.{modality}", key, f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"))
    pooled = "none" if encoded.pooled is None else list(encoded.pooled.shape)
    target = f"system.head.connectors.{modality}" if hasattr(system.head, "connectors") else "system.head"
    edges.append(Edge(key, target, f"tokens {list(encoded.tokens.shape)}, pooled {pooled}"))
    return encoded


def _edges_of_conversations(system: System, batch: Batch, encoded: Mapping[str, Encoded]) -> list[Edge]:
    """What a language model is given: token ids, and of each modality the tokens that its connector makes."""
    head: Any = system.head
    if not hasattr(head, "language"):
        return []
    edges = [Edge("data.source", "system.processor.conversation", "raw")]
    edges.append(Edge("system.processor.conversation", "system.head.language", f"token ids {list(batch.inputs['text'].shape)}"))
    for modality, connector in getattr(head, "connectors", {}).items():
        tokens, _ = connector(encoded[modality].tokens, encoded[modality].mask)
        carries = f"tokens {list(tokens.shape)}, {tokens.shape[1]} of {encoded[modality].tokens.shape[1]} for each item"
        edges.append(Edge(f"system.head.connectors.{modality}", "system.head.language", carries))
    return edges


def _step(system: System, loss: Tensor) -> None:
    """Go backward and update without data; some trainable parameter must meet a gradient.

    Plain subtraction has the shapes of any optimizer's step; building a real one imports the compiler, a second or more.
    """
    if loss.requires_grad:
        loss.backward()
    trained = [p for p in system.parameters() if p.grad is not None]
    if not trained:
        raise ConfigError("training.freeze: no parameter gets a gradient, so nothing would be trained; leave a part out of it")
    with torch.no_grad():
        for parameter in trained:
            parameter.sub_(cast(Tensor, parameter.grad))

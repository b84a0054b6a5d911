"""Costs of a model: parameters, FLOPs, tokens and memory, computed on the meta device without allocating weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.assembly.system import System
from zoo.assembly.token_counts import nominal_input
from zoo.layers.low_precision.modes import precisions_of
from zoo.types import Encoded, Encoder, LanguageModel, encode, head_of, patches_of


@dataclass(frozen=True)
class Summary:
    """Costs of a model for one item.

    Attributes:
        parameters: number of parameters.
        trainable: number of parameters that get a gradient.
        flops: floating-point operations of one forward pass at the nominal input size (2 per multiply-add), by part; "total" is the sum
            over the encoders. A language model's are those of one token, and are not in "total".
        tokens: number of tokens of each encoder at the nominal input size, by modality, and after the connector.
        memory_bytes: memory of parameters and buffers.
        parts: number of parameters by part.
        precisions: precisions in which the model can be loaded; int8 and int4 are for inference on a CPU, and so is fp16 there.
    """

    parameters: int
    trainable: int
    flops: dict[str, int]
    tokens: dict[str, int]
    memory_bytes: int
    parts: dict[str, int] = field(default_factory=dict)
    precisions: list[str] = field(default_factory=list)


def count(module: nn.Module) -> int:
    """Return the number of parameters; shared parameters count once."""
    return sum(p.numel() for p in module.parameters())


def summarize(name_or_model: str | nn.Module) -> Summary:
    """Count parameters, FLOPs, tokens and memory of a registered name or a model, without weights.

    Raises:
        ConfigError: the name is unknown.
    """
    from zoo.assembly.create import create_model  # imports the readers of weights, which a check does not need

    model = create_model(name_or_model, device="meta") if isinstance(name_or_model, str) else name_or_model
    encoders = dict(model.encoders) if isinstance(model, System) else {}
    if isinstance(model, Encoder):
        encoders = {model.modality: model}
    head: Any = head_of(model)
    reads = reads_of_system(head) if isinstance(model, System) else {}
    tokens, flops = {}, {}
    for modality, encoder in encoders.items():
        encoded, flops[modality] = _trace(_WithReads(encoder, reads), *nominal_input(modality, encoder))
        tokens[modality] = encoded.tokens.shape[1]
    tokens |= {
        f"{m} behind the connector": counts(nominal_input(m, encoders[m])[0][0])
        for m, counts in (model.counts if isinstance(model, System) else {}).items()
    }
    total, language = sum(flops.values()), model if head is None else head.language
    if isinstance(language, LanguageModel):
        flops["language, each token"] = _trace(_NextToken(cast(nn.Module, language)), torch.zeros(1, 1, dtype=torch.int64, device="meta"))[
            1
        ]
    tensors = [*model.parameters(), *model.buffers()]
    parts = {f"encoders.{m}": count(e) for m, e in encoders.items()} | _parts_of_head(model.head) if isinstance(model, System) else {}
    return Summary(
        parameters=count(model),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops={**flops, "total": total},
        tokens=tokens,
        memory_bytes=sum(t.numel() * t.element_size() for t in tensors),
        parts=parts,
        precisions=precisions_of(model),
    )


def reads_of_system(head: Any) -> dict[str, Any]:
    """Return the keywords of ``encode`` with which a system runs its encoders: all tokens, or patches if its head reads them."""
    return {"reads": "patches", **patches_of(head)} if head.accepts.reads == "patches" else {}


def _parts_of_head(head: nn.Module) -> dict[str, int]:
    """Return the parameters of a head; of a head with a language model, those of each submodule."""
    if head.language is None:
        return {"head": count(head)}
    return {f"head.{name}": count(part) for name, part in head.named_children() if count(part)}


class _WithReads(nn.Module):
    """An encoder with fixed keywords of ``encode``."""

    def __init__(self, encoder: nn.Module, reads: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.reads = encoder, dict(reads)

    def forward(self, x: Tensor, mask: Tensor | None) -> Encoded:
        return encode(cast(Encoder, self.encoder), x, mask, **self.reads)


class _NextToken(nn.Module):
    """A language model with its output layer: the logits of the next token."""

    def __init__(self, language: nn.Module) -> None:
        super().__init__()
        self.language = language

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.language.logits(self.language(token_ids))  # type: ignore[operator]


def _trace(module: nn.Module, *inputs: Tensor | None) -> tuple[Any, int]:
    """Run a module on the meta device; return its output and its FLOPs, with fused attention decomposed."""
    from torch.utils.flop_counter import FlopCounterMode  # takes half a second; a check does not need it

    tensors = {k: v.detach().to("meta") for k, v in [*module.named_parameters(), *module.named_buffers()]}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = functional_call(module, tensors, inputs)
    return output, counter.get_total_flops()

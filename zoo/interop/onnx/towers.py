"""Towers: the parts of a model that become one ONNX graph each, with named tensors as inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.registry import find_part
from zoo.types import Encoded, Encoder, FeatureHead, encode, encoders_of, head_of, patches_of, verbs_of

INPUTS = {"image": "pixels", "audio": "mels", "text": "token_ids"}
TRACED_BATCH = 2
EMBEDDINGS = ("embeddings",)  # not "embedding", which torch calls a node of the graph


@dataclass(frozen=True)
class Tower:
    """One graph.

    Attributes:
        modality: of the input.
        module: takes the input, and of texts a mask, and returns tensors.
        outputs: their names.
        encoder: the encoder in it.
    """

    modality: str
    module: nn.Module
    outputs: tuple[str, ...]
    encoder: Encoder

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs; a text has a mask, True at real tokens."""
        name = INPUTS[self.modality]
        return (name, "mask") if self.modality == "text" else (name,)

    def example(self, batch: int = TRACED_BATCH, length: int | None = None) -> tuple[Tensor, ...]:
        """Return random inputs of the nominal size; the second text is one token shorter than the first.

        Args:
            batch: number of items.
            length: tokens of the texts; None is the most that the encoder takes, at most 16.
        """
        generator = torch.Generator().manual_seed(0)
        part: Any = find_part("processor", self.modality)
        sizes = {key: value for key in part.encoder_keys if (value := getattr(self.encoder, key)) is not None}
        settings = {key: value for key, value in self.encoder.preprocessing.items() if key != "tiler"}
        x, _ = part(**{**sizes, **settings}).meta(batch)
        if self.modality != "text":
            return (torch.rand(x.shape, generator=generator),)
        length = min(16, self.encoder.context_length or 16) if length is None else length
        assert self.encoder.vocab_size is not None
        ids = torch.randint(self.encoder.vocab_size, (batch, length), generator=generator)
        lengths = torch.tensor([length] + [length - 1] * (batch - 1))
        return ids, torch.arange(length) < lengths[:, None]


class _Tokens(nn.Module):
    """An encoder that returns its tokens, and its pooled vectors if it has them; ``reads`` are keywords of ``encode``."""

    def __init__(self, encoder: Encoder, reads: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.reads = encoder, dict(reads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        encoded = encode(self.encoder, x, mask, **self.reads)
        return (encoded.tokens,) if encoded.pooled is None or self.reads else (encoded.tokens, encoded.pooled)


class _Result(nn.Module):
    """An encoder and what the head makes of it: a unit vector, or logits."""

    def __init__(self, encoder: Encoder, head: Any) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        encoded: Encoded = encode(self.encoder, x, mask)
        if isinstance(self.head, FeatureHead):
            return self.head.features({self.encoder.modality: encoded})[self.encoder.modality]
        return self.head.project(encoded)


def towers_of(model: nn.Module) -> dict[str, Tower]:
    """Return the graphs of a model by the name of their file; empty if it has no encoder."""
    head, found = head_of(model), {}
    for modality, encoder in encoders_of(model).items():
        if isinstance(head, FeatureHead):
            found[modality] = Tower(modality, _Result(encoder, head), EMBEDDINGS, encoder)
        elif "logits" in verbs_of(model):
            found["classifier"] = Tower(modality, _Result(encoder, head), ("logits",), encoder)
        else:
            reads = {"reads": "patches", **patches_of(head)} if head is not None and head.accepts.reads == "patches" else {}
            outputs = ("tokens", "pooled") if encoder.gives_pooled and not reads else ("tokens",)
            found["encoder" if head is None else f"{modality}_encoder"] = Tower(modality, _Tokens(encoder, reads), outputs, encoder)
    return found

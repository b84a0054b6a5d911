"""What passes between the parts: ``Batch``, ``Encoded``, ``HeadOutput``, and what each part says of itself.

Glossary, one word for one thing everywhere: ``dim depth num_heads head_dim mlp_ratio patch_size image_size num_mels
context_length vocab_size``; ``num_`` for counts; a mask is True where attention is allowed; tensors are called
``pixels`` [B, 3, H, W] float, ``mels`` [B, num_mels, frames] float, ``token_ids`` [B, L] int64, ``tokens`` [B, N, dim],
``logits``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

TEACHER = "teacher"  # in ``Batch.targets``: what a teacher gives for the same inputs [B, dim]
SUPERVISED = "supervised"  # in ``Batch.targets``: True at token ids that are to be predicted, each from those before it [B, L] bool
MASKED = "masked"  # in ``Batch.targets``: the token id that stood at each place chosen to be predicted, IGNORED elsewhere [B, L]
MELS = "mels"  # in ``Batch.targets``: frames to be said [B, num_mels, frames]
FRAMES = "frames"  # True at those that are no padding [B, frames] bool
MAGNITUDES = "magnitudes"  # the same frames as linear spectra [B, bins, frames]
IGNORED = -100  # as a label: no loss here (torch's and transformers' number)
# Where a token of another modality stands among token ids; no table has such rows, so that no vocabulary has to grow for them.
PLACEHOLDER_IDS = {"image": -200, "audio": -201}


@dataclass
class Batch:
    """What a training step takes.

    Attributes:
        inputs: the modality's tensor by modality: ``pixels``, ``mels`` or ``token_ids``.
        masks: True at real positions, by modality; a modality without padding has none.
        targets: further tensors that a head reads, by name. ``groups`` [B] int64 says which items mean the same
            (equal numbers are positives of each other); ``labels`` [B] int64 are class numbers.
        ids: one name per item, for messages (file and row).
        features: in place of ``inputs``, what an encoder's frozen part gave for them before ("batch width", by modality).
    """

    inputs: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return a batch whose every tensor went through ``change``."""
        moved = {f.name: {key: change(value) for key, value in getattr(self, f.name).items()} for f in fields(self) if f.name != "ids"}
        return replace(self, **moved)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Move every tensor to a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Pin every tensor; a ``DataLoader`` calls this."""
        return self.map(torch.Tensor.pin_memory)

    def __len__(self) -> int:
        """How many items; one conversation may hold any number of images, so that its texts are counted where there are any."""
        return len(self.ids) or len(self.inputs.get("text", next(iter((self.inputs or self.features).values()))))


@dataclass
class Encoded:
    """What an encoder gives: tokens, one vector for the whole where the encoder pools, and the mask of the tokens."""

    tokens: Float[Tensor, "batch num_tokens dim"]
    pooled: Float[Tensor, "batch dim"] | None
    mask: Bool[Tensor, "batch num_tokens"]

    @classmethod
    def of_pooled(cls, pooled: Float[Tensor, "batch dim"]) -> "Encoded":
        """Pooled vectors as the only tokens, where nothing else is read."""
        return cls(pooled[:, None], pooled, torch.ones(len(pooled), 1, dtype=torch.bool, device=pooled.device))


@dataclass
class HeadOutput:
    """What a head gives for a batch.

    Attributes:
        loss: scalar; None when the batch holds nothing to learn from.
        metrics: detached scalars for the log, by name.
        outputs: anything else by name, for example ``logits``.
    """

    loss: Float[Tensor, ""] | None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Shaped[Tensor, "..."]] = field(default_factory=dict)


@dataclass
class Predictions:
    """What a language model makes of the supervised tokens of a batch, each from those before it.

    Attributes:
        hidden: states from which the logits are made.
        labels: the tokens that stand there.
        rows: which conversation of the batch each is of, in order.
    """

    hidden: Float[Tensor, "num_tokens dim"]
    logits: Float[Tensor, "num_tokens vocab_size"]
    labels: Int[Tensor, " num_tokens"]
    rows: Int[Tensor, " num_tokens"]


@dataclass(frozen=True)
class EncoderSpec:
    """What a head must know of an encoder before it can be built.

    Attributes:
        dim: width of its tokens.
        pooled: whether it gives a pooled vector.
        num_tokens: of each item, where the head reads patches and every item has as many; None where that is not known.
        vocab_size: rows of its table of words, where it has one.
        word_dim: width of that table, where a head may share it (``encoder.word_logits``).
    """

    modality: str
    dim: int
    pooled: bool = True
    num_tokens: int | None = None
    vocab_size: int | None = None
    word_dim: int | None = None

    @classmethod
    def of(cls, encoder: "Encoder") -> "EncoderSpec":
        """Read the specification off an encoder."""
        words = {name: getattr(encoder, name, None) for name in ("vocab_size", "word_dim")}
        return cls(encoder.modality, encoder.dim, getattr(encoder, "gives_pooled", True), **words)


@dataclass(frozen=True)
class Accepts:
    """Which encoders a head takes: how many, of which modalities, and which of their outputs it reads.

    "patches" are the tokens that a language model is shown; see ``encode``.
    """

    modalities: tuple[str, ...]
    minimum: int = 1
    maximum: int = 1
    reads: Literal["pooled", "tokens", "patches"] = "pooled"


@runtime_checkable
class Encoder(Protocol):
    """One modality to tokens.

    One with the attribute ``pools_alone = True`` takes a third argument ``reads`` ("tokens" or "pooled"); for "pooled" it may give
    the pooled vectors as its only tokens [batch, 1, dim].
    """

    modality: str
    dim: int

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Encoded: ...


@runtime_checkable
class LanguageModel(Protocol):
    """A causal language model: what stands before a position, to a distribution over the next token.

    Called with token ids [batch, length] or with their vectors [batch, length, dim], it gives the hidden states after the last norm
    [batch, length, dim]; ``logits`` makes [..., vocab_size] of those that are asked for. ``embed`` makes vectors of token ids, so that
    others may be put among them. A mask [batch, length] is True at real tokens of this call, and a cache keeps those of the calls
    before it; padding may lie on either side, and positions are counted over real tokens unless they are given. With a cache of
    ``new_cache`` the call continues what the cache holds, and the cache holds this call's tokens too. With a layout the tokens are a
    list [total, dim] (``zoo.layers.packing``).
    """

    dim: int
    vocab_size: int
    context_length: int

    def __call__(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: Any = None,
        layout: Any = None,
    ) -> Tensor: ...

    def embed(self, token_ids: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def new_cache(self, batch_size: int, length: int) -> Any: ...


def encode(
    encoder: Encoder,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    reads: str = "tokens",
    layer: int | None = None,
    class_token: bool = False,
) -> Encoded:
    """Ask an encoder; one that can leave out what is not read is told what is.

    Args:
        reads: "tokens", "pooled", or "patches": of an encoder that has a method ``patches`` the tokens of places alone, without
            registers; of others their usual tokens.
        layer: of patches, counted as transformers' ``hidden_states``: -1 is the last block's output before the final norm, -2 the one
            before; None: the last, normalised. Encoders whose layers differ in width or in number of tokens give their last.
        class_token: before the patches the class token, of encoders that have one.
    """
    if reads == "patches":
        patches: Any = getattr(encoder, "patches", None)
        return encoder(x, mask) if patches is None else patches(x, mask, layer=layer, class_token=class_token)
    if getattr(encoder, "pools_alone", False):
        return encoder(x, mask, reads=reads)  # type: ignore[call-arg]
    return encoder(x, mask)


@runtime_checkable
class Head(Protocol):
    """Tokens to loss and outputs.

    ``accepts`` says which encoders fit; ``verbs`` names the methods that a ``System`` hands on. A verb's first argument
    is the system, which gives it encoders and processor. A head may name the evaluation that is its own in ``evaluation``.
    One of which ``accepts.reads`` does not tell the whole says in ``reads`` what it takes of an encoder (``reads_of``); one that
    reads patches says in ``feature_layer`` and ``class_token`` which (``patches_of``).
    One that depends on the data names attributes of the source in ``from_source``, and a training run hands them to its
    classmethod ``complete(keywords, **facts)``, which returns the keywords that it is built with. One that shares weights with an
    encoder is given the encoders through its method ``tie(encoders)``; they stay the encoder's, and are saved once.
    """

    accepts: ClassVar[Accepts]
    verbs: ClassVar[tuple[str, ...]]

    def __call__(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput: ...


def reads_of(head: Head) -> tuple[str, ...]:
    """Which outputs of its encoders a head takes, of "pooled", "tokens" and "patches"."""
    return getattr(head, "reads", (head.accepts.reads,))


def patches_of(head: Head) -> dict[str, Any]:
    """Which tokens a head that reads patches is shown, as keywords of ``encode``."""
    return {"layer": getattr(head, "feature_layer", None), "class_token": getattr(head, "class_token", False)}


@runtime_checkable
class FeatureHead(Head, Protocol):
    """A head whose loss depends on one tensor per modality, each made of its own encoder's output alone.

    ``head(encoded, batch)`` is ``loss_of(features(encoded), batch.targets)``. Along the first axis the features are items, so those
    of several batches may be concatenated, and ``features`` takes any of the modalities.
    """

    def features(self, encoded: dict[str, Encoded]) -> dict[str, Tensor]: ...

    def loss_of(self, features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> HeadOutput: ...


@runtime_checkable
class TalkingHead(Head, Protocol):
    """A head that predicts the supervised tokens of conversations; losses on answers and perplexity are made of these."""

    def predictions(self, encoded: dict[str, Encoded], batch: Batch) -> Predictions: ...


@runtime_checkable
class Processor(Protocol):
    """Raw inputs of every modality of a system to a ``Batch``."""

    def __call__(self, **raw: Any) -> Batch: ...

    def __getitem__(self, modality: str) -> Any: ...


@runtime_checkable
class SystemLike(Protocol):
    """What a head's verb may ask of the system that calls it."""

    encoders: Mapping[str, Encoder]
    head: Head
    processor: Processor | None
    device: torch.device

    def encode(self, modality: str, raw: Any, *, reads: str = "tokens") -> Encoded: ...

    def encode_ready(self, modality: str, x: Tensor, mask: Tensor | None = None) -> Encoded: ...


@dataclass
class Sample:
    """One item of a source, still raw.

    Attributes:
        id: file and row, or another name that leads back to the item.
        inputs: raw input by modality: an image (PIL or uint8 array), a waveform, a string.
        group: items of equal group mean the same; None where the source does not know.
        label: class number, for evaluation.
        answers: what a judge takes for right, the plainest first: of a conversation's last question, or references of a caption.
        kind: of the question ("sum", "capital"), for figures by kind; empty where there is one kind only.
        choices: strings, or pictures, of which one is right; where answers are chosen and not written.
    """

    id: str
    inputs: dict[str, Any]
    group: int | None = None
    label: int | None = None
    answers: list[str] = field(default_factory=list)
    kind: str = ""
    choices: list[Any] = field(default_factory=list)

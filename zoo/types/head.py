"""Heads: tokens to loss and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from zoo.types.batch import Batch, Encoded, HeadOutput, Predictions


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

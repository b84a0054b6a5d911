"""Base classes of heads, which turn tokens into a loss, outputs and verbs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from zoo.errors import DataError
from zoo.types.batch import Batch, Encoded, HeadOutput, Predictions
from zoo.types.connector import Connector
from zoo.types.encoder import Encoder
from zoo.types.language import LanguageModel
from zoo.types.part import Part
from zoo.types.processor import Processor


@dataclass(frozen=True)
class Accepts:
    """The encoders that a head takes: how many, of which modalities, and which of their outputs it reads.

    "patches" are the tokens of places in the input, which a language model receives; see ``encode``.
    """

    modalities: tuple[str, ...]
    minimum: int = 1
    maximum: int = 1
    reads: Literal["pooled", "tokens", "patches"] = "pooled"


@dataclass(frozen=True)
class Wiring:
    """The other parts of a system, which its head may keep references to.

    Attributes:
        encoders: by modality; they keep ownership of a weight that the head shares.
        processor: None if the system takes ready tensors only.
        counts: tokens that the head makes of an item, by modality.
    """

    encoders: Mapping[str, Encoder]
    processor: Processor | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)


class Head(Part, nn.Module):
    """Tokens of the encoders to a loss and outputs.

    A subclass must set ``accepts`` and define ``forward``; every other word has a default.

    Attributes:
        accepts: the encoders that fit.
        verbs: names of the methods that are called on the ``System`` (``system.embed``); their first argument is the system.
        evaluation: name of the evaluation that is used if a config names none.
        reads: the outputs of its encoders that the head uses, of "pooled", "tokens" and "patches".
        feature_layer: of patches, see ``Encoder.patches``.
        class_token: of patches, see ``Encoder.patches``.
        language: the language model in the head; None if it has no language model.
        connectors: by modality, from tokens of an encoder to inputs of the language model.
        needs_masking: True if the loss is on hidden tokens, so that the data must hide some (``data.masking``).
        needs_turns: True if the hidden tokens are predicted in an order (``data.masking.permutation``).
        needs_teacher: True if the loss needs a teacher's vectors.
        needs_symbols: True if the head looks for start and end symbols around an item among the token ids.
        processors: names of processors beside those of the encoders, for example "transcript".
        processor_defaults: keywords of the processor "conversation", which a system's config may override.
        from_source: attributes of the data source that are passed to ``complete`` as keywords.
        class_names: of a classifier; empty if it has none.
        num_classes: of a classifier.
        num_speakers: voices of a speech decoder; 0 for one voice.
        embed_dim: width of the vectors of ``embed``; None if the head has no verb ``embed``.
    """

    accepts: ClassVar[Accepts]
    verbs: ClassVar[Sequence[str]] = ()
    evaluation: ClassVar[str | None] = None
    reads: Sequence[str] = ()
    feature_layer: int | Sequence[int] | None = None
    class_token: bool = False
    language: LanguageModel | None
    connectors: Mapping[str, Connector]
    needs_masking: bool = False
    needs_turns: bool = False
    needs_teacher: bool = False
    needs_symbols: bool = False
    processors: ClassVar[Sequence[str]] = ()
    processor_defaults: ClassVar[Mapping[str, Any]] = {}
    from_source: ClassVar[Sequence[str]] = ()
    class_names: Sequence[str] | None = None
    num_classes: int = 0
    num_speakers: int = 0
    embed_dim: int | None = None

    def __init__(self) -> None:
        super().__init__()
        # Set here, because class attributes would hide submodules of these names.
        self.language = None
        self.connectors = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "accepts" in cls.__dict__ and "reads" not in cls.__dict__:
            cls.reads = (cls.accepts.reads,)

    @classmethod
    def complete(cls, keywords: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
        """Return the constructor keywords, completed by attributes of the data source (``from_source``).

        Raises:
            ConfigError: the keywords and the source contradict each other.
        """
        return dict(keywords)

    def connect(self, wiring: Wiring) -> None:
        """Take references to the system's other parts, for example tie a weight; connecting twice is the same as once."""

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch that the encoders read; by default unchanged. A head with a generator replaces tokens here."""
        return batch

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return loss, metrics and outputs of a batch.

        Args:
            encoded: the encoders' outputs by modality.
            batch: the batch that they were made of, after ``prepare``; a head reads its ``targets``.

        Raises:
            DataError: a target that the head reads is missing.
        """
        raise NotImplementedError


class FeatureHead(Head):
    """A head whose loss depends on one tensor per modality, each computed from the output of one encoder.

    ``head(encoded, batch)`` is ``loss_of(features(encoded), batch.targets)``. Along the first axis the features are items, so those
    of several batches may be concatenated, and ``features`` takes any of the modalities.
    """

    def features(self, encoded: dict[str, Encoded]) -> dict[str, Tensor]:
        """Return one tensor [B, ...] per modality."""
        raise NotImplementedError

    def loss_of(self, features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> HeadOutput:
        """Return the loss of features."""
        raise NotImplementedError


@dataclass(frozen=True)
class SampledAnswer:
    """An answer that a model sampled.

    Attributes:
        token_ids: the sampled ids, the end token included.
        text: the answer without end token and stop string.
        is_finished: False if the answer was cut at its maximum length.
    """

    token_ids: Sequence[int]
    text: str
    is_finished: bool


class LanguageHead(Head):
    """A head that predicts the supervised tokens of conversations; preference losses and perplexity are computed from these predictions.

    Attributes:
        prefix: True if the tokens of a prompt see each other, those of its answer only earlier ones (PaliGemma).
    """

    prefix: bool = False

    def prefix_lengths(self, prompts: Sequence[Tensor]) -> list[int] | None:
        """Return the number of tokens of each prompt that see each other, for ``generate``; None if all are causal."""
        return [len(prompt) for prompt in prompts] if self.prefix else None

    def predictions(self, encoded: dict[str, Encoded], batch: Batch) -> Predictions:
        """Return hidden states, logits and labels of the supervised tokens of a batch."""
        raise NotImplementedError

    def sample(
        self,
        encoded: dict[str, Encoded],
        prompts: Batch,
        tokenizer: Any,
        *,
        copies: int,
        rows: Sequence[int],
        max_new_tokens: int,
        seed: int,
    ) -> list[SampledAnswer]:
        """Sample answers from the model's own distribution: temperature 1, every token of the vocabulary.

        Args:
            prompts: batch whose texts are prompts.
            tokenizer: part "conversation" of the system's processor.
            copies: answers per prompt; those of one prompt are adjacent.
            rows: number of each answer, which seeds it together with ``seed``.
        """
        raise NotImplementedError


def need_encoded(encoded: Mapping[str, Encoded], modality: str, head: str) -> Encoded:
    """Return the encoder's output of a modality that a head reads.

    Raises:
        DataError: the batch held no inputs of that modality, so that its encoder did not run.
    """
    if modality not in encoded:
        held = ", ".join(encoded) or "nothing"
        raise DataError(f"the batch holds no {modality}, which head {head!r} needs (it holds: {held}); choose a data source of {modality}")
    return encoded[modality]


def patches_of(head: Head) -> dict[str, Any]:
    """Return the keywords of ``encode`` that select the patches which a head reads."""
    return {"layer": head.feature_layer, "class_token": head.class_token}

"""Base class of the processors of one modality (raw input to tensors, and back), and the interface of a system's processor."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from zoo.types.batch import Batch
from zoo.types.source import Sample
from zoo.types.tiler import Tiler

# Mean and standard deviation of images if an encoder does not say its own (openai/CLIP clip.py, _transform).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Tokenizer(Protocol):
    """The methods of ``tokenizers.Tokenizer`` that zoo uses."""

    def encode(self, sequence: Any, pair: Any = None, is_pretokenized: bool = False, add_special_tokens: bool = True) -> Any: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]: ...

    def to_str(self, pretty: bool = False) -> str: ...


class ModalityProcessor:
    """Raw inputs of one modality to tensors.

    A subclass must define ``settings``, ``item``, ``collate`` and ``meta``; every other word has a default.
    ``type(p)(**p.settings)`` is an equal processor, up to its files.

    Attributes:
        modality: key of ``Sample.inputs`` that it reads.
        target: True if it fills ``Batch.targets`` instead of ``Batch.inputs``.
        encoder_keys: settings that must equal the encoder's; taken from the encoder if a config does not give them.
        language_keys: settings that the head's language model bounds from above.
        head_keys: settings that the head bounds from above.
        tokenizer: None if it has none, or none yet.
        sample_rate_hz: sample rate of audio, in Hz; None for other modalities.
        max_length: longest text that it makes, in tokens; None if there is no limit.
        context_length: longest input of the encoder: text in tokens, or audio in encoder positions.
        is_fitted: False if ``fit`` has to train something first.
        tiler: cuts pictures of any size; None if all items of an image processor have one size.
    """

    modality: ClassVar[str]
    target: ClassVar[bool] = False
    encoder_keys: ClassVar[Sequence[str]] = ()
    language_keys: ClassVar[Sequence[str]] = ()
    head_keys: ClassVar[Sequence[str]] = ()
    tokenizer: Any = None
    sample_rate_hz: int | None = None
    max_length: int | None = None
    context_length: int | None = None
    is_fitted: bool = True
    tiler: Tiler | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return the constructor's keywords as plain YAML values, for ``processor.json``."""
        raise NotImplementedError

    def item(self, raw: Any) -> Any:
        """Return one raw input as tensors, not yet padded.

        Raises:
            DataError: the input cannot be used.
        """
        raise NotImplementedError

    def items(self, raws: Sequence[Any], total: int | None = None) -> list[Any]:
        """Return raw inputs of one conversation as tensors; by default each one as ``item``.

        Args:
            raws: some or all of the conversation's inputs of this modality.
            total: number of all of them; None if these are all.
        """
        return [self.item(raw) for raw in raws]

    def kept(self, raw: Any) -> Any:
        """Return a raw input decoded, to be put into conversations later; by default as ``item``.

        Raises:
            DataError: the input cannot be used.
        """
        return self.item(raw)

    def item_of(self, sample: Sample) -> Any:
        """Return the tensors of a sample; by default of its raw input of this modality."""
        return self.item(sample.inputs[self.modality])

    def collate(self, items: Sequence[Any]) -> Any:
        """Return items as one padded batch: the tensor and its mask (None without padding), or targets by name."""
        raise NotImplementedError

    def ready(self, items: Sequence[Any]) -> Any:
        """Return items as ``embed``, ``score`` and ``classify`` take them: a tensor without its mask; a batch if sizes differ."""
        found = self.collate(items)
        return found if isinstance(found, Batch) else found[0]

    def __call__(self, raw: Any) -> Any:
        """Return raw inputs, or ready tensors, as one batch; by default the collated items."""
        return self.collate([self.item(each) for each in raw])

    def meta(self, batch_size: int) -> Any:
        """Return a batch of the nominal size on the meta device, with the types and axes of ``collate``."""
        raise NotImplementedError

    def counted(self, count: Any) -> Any:
        """Return what counts the language model's tokens of one item, made of the number that encoder and connector make of a plain one."""
        return count

    def fit(self, captions: Iterable[str]) -> None:
        """Train what has to be trained on the captions of a run; nothing by default."""

    def use(self, tokenizer: Any) -> None:
        """Take a trained tokenizer.

        Raises:
            ConfigError: the processor has no tokenizer, or not with this vocabulary.
        """
        raise NotImplementedError

    def save(self, directory: Path) -> None:
        """Write files beside ``processor.json``; none by default."""

    def load(self, directory: Path) -> None:
        """Read the files that ``save`` wrote; none by default."""


@runtime_checkable
class Processor(Protocol):
    """Raw inputs of every modality of a system to a ``Batch``."""

    def __call__(self, **raw: Any) -> Batch: ...

    def __getitem__(self, modality: str) -> Any: ...

    def get(self, modality: str) -> Any: ...

    def with_counts(self, counts: Mapping[str, Any]) -> "Processor": ...

"""Several sources as one, each with a given share of the tokens: text alone, pairs of picture and text, interleaved documents.

Paper: Kosmos-1 (arXiv 2302.14045), section 3.2: a batch of 1.2 million tokens has 0.5 of text, 0.5 of pairs, 0.2 of interleaved documents.
Where we differ: the shares hold for an epoch, and for a batch on average.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError
from zoo.processors.chat.messages import MARKERS
from zoo.registry import register
from zoo.registry.construct import build_part
from zoo.sources.digits import refuse_split
from zoo.sources.instruct import WeightedOrder
from zoo.types import Sample

SPLITS = ("train", "validation", "test")
LOOKED_AT = 500  # items of a source, spread evenly, to estimate how long they are
TOKENS_A_WORD = 1.3  # of English with a vocabulary of tens of thousands


@register("source")
class Mixture:
    """Sources and the share of tokens that each has in training; in the other splits each item stands once.

    How many tokens an item has is estimated from its words, until packs (``data.packing``) have counted them. An epoch has as many items as
    the sources together; a source that has to give more than it holds shows items again, each equally often up to one. Order and tolerance
    of the sources themselves are not used.

    Args:
        sources: by a name of your own, each ``{name: SOURCE, ...}`` with its keywords.
        weights: shares of the tokens by the same names, in relation: ``{text: 0.5, pairs: 0.5, interleaved: 0.2}``; None: as many as each
            source has.
        media_tokens: of a picture or clip, for the estimate.

    Raises:
        ConfigError: weights of other names than the sources, or a source that cannot be made.
    """

    modalities = ("image", "audio", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(self, *, sources: Mapping[str, Any], weights: Mapping[str, float] | None = None, media_tokens: int = 64) -> None:
        if not sources:
            raise ConfigError("sources: empty; name at least one, for example {text: {name: documents, path: PATH}}")
        if weights is not None and (set(weights) != set(sources) or min(weights.values()) <= 0):
            raise ConfigError(f"weights: {dict(weights)}; give a number above 0 for each of {', '.join(sources)}")
        if media_tokens < 0:
            raise ConfigError(f"media_tokens: {media_tokens}; allowed is 0 or more")
        self.sources = {name: _made(name, words) for name, words in sources.items()}
        self.kinds = tuple(self.sources)
        self.weights = None if weights is None else [float(weights[name]) for name in self.sources]
        self.media_tokens = media_tokens

    @property
    def skipped(self) -> list[str]:
        """What the sources left out."""
        return [f"{name}: {text}" for name, source in self.sources.items() for text in getattr(source, "skipped", ())]

    def report(self) -> dict[str, Any]:
        """What each source says that it holds, or how many items of training it has."""
        return {
            name: source.report() if hasattr(source, "report") else {"items": len(source.split("train"))}
            for name, source in self.sources.items()
        }

    def split(self, name: str) -> "MixtureSplit":
        """The items of one split, source after source; beside training, of those sources that have it.

        Raises:
            DataError: no such split, or no source has it.
        """
        refuse_split(name, SPLITS)
        found, faults = {}, []
        for key, source in self.sources.items():
            try:
                found[key] = source.split(name)
            except DataError as fault:
                if name == "train":
                    raise
                faults.append(fault)
        if not found:
            raise faults[0]
        return MixtureSplit(found, self.weights if name == "train" else None, self.media_tokens)

    def captions(self) -> list[str]:
        """The texts of all sources, to train a tokenizer on."""
        return [text for source in self.sources.values() for text in source.captions()]


class MixtureSplit:
    """Items of several splits, numbered through; ``kind`` of each is the name of its source."""

    def __init__(self, splits: Mapping[str, Any], weights: Sequence[float] | None, media_tokens: int) -> None:
        self.splits, self.weights, self.media_tokens = dict(splits), weights, media_tokens
        self.sizes = [len(split) for split in self.splits.values()]
        self.ends = np.cumsum(self.sizes)
        shares = [share for split in self.splits.values() if (share := getattr(split, "max_bad_share", None)) is not None]
        self.max_bad_share = max(shares, default=None)
        if weights is not None:
            self._share_out([self._estimate(split) for split in self.splits.values()])

    def __len__(self) -> int:
        return sum(self.sizes)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Item ``index``, as its source gives it."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        name, split = list(self.splits.items())[number]
        sample = split.sample(index - int(self.ends[number]) + self.sizes[number], generator)
        sample.kind = name
        return sample

    def weigh(self, tokens: Sequence[int]) -> None:
        """Take the lengths of all items, counted, in place of the estimate."""
        if self.weights is not None:
            parts = np.split(np.asarray(tokens, dtype=float), self.ends[:-1])
            self._share_out([part[part > 0].mean() if (part > 0).any() else 1.0 for part in parts])

    def _share_out(self, lengths: Sequence[float]) -> None:
        """Draw items so often that their tokens have the shares: twice as long, half as often."""
        assert self.weights is not None
        self.order = WeightedOrder(self.sizes, [weight / length for weight, length in zip(self.weights, lengths, strict=True)])

    def _estimate(self, split: Any) -> float:
        """How many tokens an item has, on average."""
        count, tokens, used = min(len(split), LOOKED_AT), 0.0, 0
        for i in range(count):
            try:
                conversation = conversation_of(split.sample(i * len(split) // count, None))
            except DataError:
                continue  # met again when it is drawn
            words = sum(len(message.text.split()) for message in conversation.messages)
            tokens += TOKENS_A_WORD * words + self.media_tokens * sum(len(conversation.media(modality)) for modality in MARKERS) + 2
            used += 1
        return tokens / used if used else 1.0


def _made(name: str, words: Any) -> Any:
    if not isinstance(words, Mapping):
        raise ConfigError(f"sources.{name}: {words!r}; give a source with its keywords, {{name: SOURCE, ...}}")
    try:
        return build_part("source", words, f"sources.{name}")
    except ConfigError:
        raise
    except DataError as fault:
        raise DataError(f"data.source.sources.{name}: {fault}") from fault

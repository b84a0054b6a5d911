"""Mixture of several sources with given shares of the tokens, for example text, image-text pairs and interleaved documents.

Paper: Kosmos-1 (arXiv 2302.14045), section 3.2: a batch of 1.2 million tokens has 0.5 million of text, 0.5 million of pairs and 0.2 million
of interleaved documents. Where we differ: the shares hold exactly for an epoch, and for a batch on average only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError
from zoo.processors.chat.messages import MARKERS
from zoo.registry import register
from zoo.registry.construct import build_part
from zoo.sources.instruct import WeightedOrder
from zoo.sources.wording.splits import refuse_split
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
LOOKED_AT = 500  # items per source that are read to estimate the average length, spread evenly
TOKENS_A_WORD = 1.3  # for English and a vocabulary of some ten thousand tokens


@register("source")
class Mixture(Source):
    """Several sources, mixed in training by their shares of the tokens; the other splits contain each item once.

    The number of tokens of an item is estimated from its words, until packing (``data.packing``) has counted the tokens. An epoch has as
    many items as all sources together. A source that has to contribute more items than it has repeats them; the numbers of repeats differ
    by one at most. The sources' own ``order`` is not used, and the largest ``max_bad_share`` of the sources applies to the mixture.

    Args:
        sources: sources by freely chosen names; each is ``{name: SOURCE, ...}`` with the source's keywords.
        weights: relative shares of the tokens by the same names, for example ``{text: 0.5, pairs: 0.5, interleaved: 0.2}``. None takes
            every item once.
        media_tokens: assumed tokens per image or audio clip, for the estimate.

    Raises:
        ConfigError: the names in ``weights`` differ from those in ``sources``, a number is not allowed, or a source's config is wrong.
        DataError: a source cannot read its data.
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
        self.sources = {name: _built(name, config) for name, config in sources.items()}
        self.kinds = tuple(self.sources)
        self.weights = None if weights is None else [float(weights[name]) for name in self.sources]
        self.media_tokens = media_tokens

    @property
    def skipped(self) -> list[str]:
        """Items that the sources left out, each with the name of its source and the reason."""
        return [f"{name}: {text}" for name, source in self.sources.items() for text in source.skipped]

    def report(self) -> dict[str, Any]:
        """Return for each source its own report, or else its number of training items."""
        return {name: source.report() or {"items": len(source.split("train"))} for name, source in self.sources.items()}

    def split(self, name: str) -> "MixtureSplit":
        """Return the items of one split, source after source; splits other than "train" leave out sources without that split.

        Raises:
            DataError: no such split, no source has it, or a source has no "train".
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
        """Return the texts of all sources, as text to train a tokenizer on."""
        return [text for source in self.sources.values() for text in source.captions()]


class MixtureSplit(Split):
    """Concatenated items of several splits; the ``kind`` of each sample is the name of its source.

    Args:
        splits: splits by the names of their sources.
        weights: relative shares of the tokens in the order of ``splits``; None keeps each item once.
        media_tokens: assumed tokens per image or audio clip.
    """

    def __init__(self, splits: Mapping[str, Any], weights: Sequence[float] | None, media_tokens: int) -> None:
        self.splits, self.weights, self.media_tokens = dict(splits), weights, media_tokens
        self.sizes = [len(split) for split in self.splits.values()]
        self.ends = np.cumsum(self.sizes)
        shares = [share for split in self.splits.values() if (share := split.max_bad_share) is not None]
        self.max_bad_share = max(shares, default=None)
        if weights is not None:
            self._share_out([self._estimate(split) for split in self.splits.values()])

    def __len__(self) -> int:
        return sum(self.sizes)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index`` from its source."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        name, split = list(self.splits.items())[number]
        sample = split.sample(index - int(self.ends[number]) + self.sizes[number], generator)
        sample.kind = name
        return sample

    def weigh(self, tokens: Sequence[int]) -> None:
        """Replace the estimated lengths by counted ones.

        Args:
            tokens: number of tokens of every item; 0 for an item that could not be read.
        """
        if self.weights is not None:
            parts = np.split(np.asarray(tokens, dtype=float), self.ends[:-1])
            self._share_out([part[part > 0].mean() if (part > 0).any() else 1.0 for part in parts])

    def _share_out(self, lengths: Sequence[float]) -> None:
        """Set the order so that the tokens have the given shares: a source with items twice as long is drawn half as often.

        Args:
            lengths: average tokens per item of each source.
        """
        assert self.weights is not None
        self.order = WeightedOrder(self.sizes, [weight / length for weight, length in zip(self.weights, lengths, strict=True)])

    def _estimate(self, split: Any) -> float:
        """Estimate the average number of tokens per item from evenly spread items."""
        count, tokens, used = min(len(split), LOOKED_AT), 0.0, 0
        for i in range(count):
            try:
                conversation = conversation_of(split.sample(i * len(split) // count, None))
            except DataError:
                continue  # the loader reports this item when it is drawn
            words = sum(len(message.text.split()) for message in conversation.messages)
            tokens += TOKENS_A_WORD * words + self.media_tokens * sum(len(conversation.media(modality)) for modality in MARKERS) + 2
            used += 1
        return tokens / used if used else 1.0


def _built(name: str, config: Any) -> Any:
    """Build one source from its config; ``name`` is its key in ``sources``, for messages."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"sources.{name}: {config!r}; give a source with its keywords, {{name: SOURCE, ...}}")
    try:
        return build_part("source", config, f"sources.{name}")
    except ConfigError:
        raise
    except DataError as fault:
        raise DataError(f"data.source.sources.{name}: {fault}") from fault

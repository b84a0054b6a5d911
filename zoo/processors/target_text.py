"""Target text processor: converts the texts that a decoder learns to write to token ids, and token ids back to text."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.processors.text import TRAINED_END_ID, TextProcessor
from zoo.registry import register
from zoo.types import SUPERVISED, TARGET_IDS, Sample

READS = ("target", "text")
TRAINED_START_ID = 1
SETTINGS = (  # of ``zoo.language.decoding.sampling.Sampling``
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "num_beams", "length_penalty", "length_form", "repetition_penalty"),
    *("no_repeat_ngram_size", "min_new_tokens", "first_token_id", "last_token_id", "suppress_tokens"),
)


@register("processor")
class TargetText(TextProcessor):
    """Conversion of texts to target ids: start symbols, the text's tokens, end symbol. All but the first start symbol are supervised.

    The tokenizer is saved with the weights as ``target_tokenizer.json``. Trained with the settings of the processor ``text`` on the same
    captions, it is the same tokenizer, so that source and target may share a word table.

    Args:
        reads: key of a sample's input: "target" (sources of pairs), or "text" (captions and transcripts, for encoders of other modalities).
        start_token_ids: ids with which the decoder begins. The first is its start symbol; a second one is also learnt and is forced in
            generation (mBART-50's language, BART's ``<s>``). None takes the start symbol of a trained tokenizer.
        generation: default settings of generation that came with the weights, for example ``{num_beams: 4}``; keywords of ``Sampling``.
        vocab_size: see ``TextProcessor``; at most the decoder's.
        context_length: maximum number of target ids; longer texts are truncated and keep their end symbol.
        tokenizer: see ``TextProcessor``; "trained" or "given".
        cleaning: see ``TextProcessor``.
        lowercase: see ``TextProcessor``.
        pad_token_id: id of the padding.
        eot_token_id: id of the end symbol.
        reserved_ids: see ``TextProcessor``.

    Raises:
        ConfigError: a name is unknown, or a size is too small.
    """

    target = True
    modality: str  # type: ignore[misc]  # chosen by ``reads``
    encoder_keys = ()
    head_keys = ("vocab_size", "context_length")
    tokenizer_file = "target_tokenizer.json"

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        reads: str = "target",
        start_token_ids: Sequence[int] | None = None,
        generation: Mapping[str, Any] | None = None,
        tokenizer: str = "trained",
        cleaning: str = "whitespace",
        lowercase: bool = True,
        pad_token_id: int = 0,
        eot_token_id: int = TRAINED_END_ID,
        reserved_ids: int = 0,
    ) -> None:
        if reads not in READS:
            raise ConfigError(f"reads: there is no {reads!r}; {name_choices(reads, READS)}")
        super().__init__(
            vocab_size=vocab_size,
            context_length=context_length,
            tokenizer=tokenizer,
            cleaning=cleaning,
            lowercase=lowercase,
            pad_token_id=pad_token_id,
            eot_token_id=eot_token_id,
            reserved_ids=reserved_ids,
        )
        unknown = sorted(set(generation or {}) - set(SETTINGS))
        if unknown:
            raise ConfigError(f"generation: there is no setting {unknown[0]!r}; {name_choices(unknown[0], SETTINGS)}")
        self.modality, self.generation = reads, dict(generation or {})
        self.start_token_ids = [TRAINED_START_ID] if start_token_ids is None else list(start_token_ids)
        if not 1 <= len(self.start_token_ids) <= 2:
            raise ConfigError(f"start_token_ids: {self.start_token_ids}; allowed are one or two ids")

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords, for ``processor.json``."""
        keys = (
            "vocab_size",
            "context_length",
            "cleaning",
            "lowercase",
            "pad_token_id",
            "eot_token_id",
            "start_token_ids",
            "generation",
            "reserved_ids",
        )
        return {**{key: getattr(self, key) for key in keys}, "reads": self.modality, "tokenizer": self.source}

    def item_of(self, sample: Sample) -> Int[Tensor, " length"]:
        """Process the text of a sample."""
        return self.item(sample.inputs[self.modality])

    def item(self, raw: Any) -> Int[Tensor, " length"]:
        """Convert one text to target ids.

        Raises:
            ItemError: it is no string.
            DataError: there is no tokenizer.
        """
        if not isinstance(raw, str):
            raise ItemError(f"a target must be a string; got {type(raw).__name__} {str(raw)[:60]!r}", self.modality)
        if self.tokenizer is None:
            raise DataError(f"this system has no tokenizer for targets yet: {self._how_to_get_one()}; or pass token ids")
        ids = self.tokenizer.encode(self.clean(raw), add_special_tokens=False).ids
        room = self.context_length - len(self.start_token_ids) - 1
        return torch.tensor([*self.start_token_ids, *ids[:room], self.eot_token_id], dtype=torch.int64)

    def collate(self, items: Sequence[Int[Tensor, " _"]]) -> dict[str, Tensor]:  # type: ignore[override]
        """Pad on the right; "supervised" is True at the real ids after the first."""
        target_ids, mask = super().collate(items)
        assert mask is not None
        mask[:, 0] = False
        return {TARGET_IDS: target_ids, SUPERVISED: mask}

    def __call__(self, raw: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Convert a list of texts, or target ids [batch, length] with their start symbol, padded on the right."""
        if not isinstance(raw, Tensor):
            return self.collate([self.item(text) for text in ([raw] if isinstance(raw, str) else raw)])
        target_ids, mask = super().__call__(raw)
        mask = torch.ones_like(target_ids, dtype=torch.bool) if mask is None else mask.clone()
        mask[:, 0] = False
        return {TARGET_IDS: target_ids, SUPERVISED: mask}

    def meta(self, batch_size: int) -> dict[str, Tensor]:  # type: ignore[override]
        """Return targets without data, for checks on the meta device."""
        shape = (batch_size, min(32, self.context_length))
        ids, mask = (torch.empty(shape, dtype=kind, device="meta") for kind in (torch.int64, torch.bool))
        return {TARGET_IDS: ids, SUPERVISED: mask}

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens.

        Raises:
            DataError: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise DataError(f"this system has no tokenizer for targets yet: {self._how_to_get_one()}")
        return self.tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=True).strip()

"""Text: strings or ready ids to ``token_ids``, through the ``tokenizers`` library."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from zoo.errors import ConfigError, DataError, WeightsError
from zoo.registry import register

SPECIAL_TOKENS = ("<pad>", "<sot>", "<eot>")  # ids 0, 1, 2 of a tokenizer that is trained here
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


@register("processor")
class TextProcessor:
    """Byte-level BPE between start and end symbols, padded to the longest of the batch.

    A tokenizer is trained on a run's captions (``fit``) or read from ``tokenizer.json``; it travels with the weights.

    Args:
        vocab_size: the most entries that the tokenizer may have; must equal the text encoder's.
        context_length: longer texts are cut, and keep their end symbol.
        pad_to: "longest" of the batch, or "context_length" (needed where padding is attended to, as in SigLIP).

    Raises:
        ConfigError: a vocabulary too small for 256 bytes and 3 special tokens, an unknown ``pad_to``.
    """

    encoder_keys = ("vocab_size", "context_length")
    tokenizer_file = "tokenizer.json"

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        lowercase: bool = True,
        pad_to: str = "longest",
        pad_token_id: int = 0,
        eot_token_id: int = 2,
    ) -> None:
        if vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(f"vocab_size: {vocab_size} is too small; byte-level BPE needs at least {SMALLEST_VOCABULARY}")
        if context_length < 3:
            raise ConfigError(f"context_length: {context_length} is too small; start, end and one token need at least 3")
        if pad_to not in ("longest", "context_length"):
            raise ConfigError(f"pad_to: there is no {pad_to!r}; known: longest, context_length")
        self.vocab_size, self.context_length, self.lowercase = vocab_size, context_length, lowercase
        self.pad_to, self.pad_token_id, self.eot_token_id = pad_to, pad_token_id, eot_token_id
        self.tokenizer: Tokenizer | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords, for ``processor.json``."""
        keys = ("vocab_size", "context_length", "lowercase", "pad_to", "pad_token_id", "eot_token_id")
        return {key: getattr(self, key) for key in keys}

    @property
    def is_fitted(self) -> bool:
        """Whether there is a tokenizer to use."""
        return self.tokenizer is not None

    def fit(self, captions: Iterable[str]) -> None:
        """Train the tokenizer; the result depends on the captions only, not on their order."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(sorted({self.clean(caption) for caption in captions}), trainer)
        tokenizer.post_processor = processors.TemplateProcessing(single="<sot> $A <eot>", special_tokens=[("<sot>", 1), ("<eot>", 2)])
        self.use(tokenizer)

    def use(self, tokenizer: Tokenizer) -> None:
        """Take a ready tokenizer.

        Raises:
            WeightsError: it has more entries than the encoder has rows.
        """
        if tokenizer.get_vocab_size() > self.vocab_size:
            raise WeightsError(f"the tokenizer has {tokenizer.get_vocab_size()} entries; vocab_size allows {self.vocab_size}")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer

    def clean(self, text: str) -> str:
        """Collapse white space, and lower the case where set."""
        text = " ".join(text.split())
        return text.lower() if self.lowercase else text

    def item(self, raw: Any) -> Int[Tensor, " length"]:
        """One string as token ids with start and end symbols, cut to ``context_length``."""
        if not isinstance(raw, str):
            raise DataError(f"a text is a string; got {type(raw).__name__} {str(raw)[:60]!r}")
        if self.tokenizer is None:
            raise DataError("this system has no tokenizer yet: train it, load trained weights, or give token ids")
        ids = self.tokenizer.encode(self.clean(raw)).ids
        if len(ids) > self.context_length:
            ids = [*ids[: self.context_length - 1], self.eot_token_id]
        return torch.tensor(ids, dtype=torch.int64)

    def collate(self, items: Sequence[Int[Tensor, " _"]]) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Pad on the right; the mask is True at real tokens."""
        longest = self.context_length if self.pad_to == "context_length" else max(len(ids) for ids in items)
        token_ids = torch.full((len(items), longest), self.pad_token_id, dtype=torch.int64)
        mask = torch.zeros(len(items), longest, dtype=torch.bool)
        for row, ids in enumerate(items):
            token_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return token_ids, mask

    def __call__(self, raw: Any) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """A list of strings, or ready ids [B, L], whose padding is found by ``pad_token_id``."""
        if isinstance(raw, Tensor):
            if raw.ndim != 2 or raw.dtype != torch.int64:
                raise DataError(f"token_ids are {raw.dtype} of shape {list(raw.shape)}; allowed is int64 [batch, length]")
            return raw, raw != self.pad_token_id
        return self.collate([self.item(text) for text in ([raw] if isinstance(raw, str) else raw)])

    def meta(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """A batch without data, for the check on the meta device."""
        shape = (batch_size, self.context_length)
        return torch.empty(shape, dtype=torch.int64, device="meta"), torch.empty(shape, dtype=torch.bool, device="meta")

    def save(self, directory: Path) -> None:
        """Write ``tokenizer.json`` where there is a tokenizer."""
        if self.tokenizer is not None:
            self.tokenizer.save(str(directory / self.tokenizer_file))

    def load(self, directory: Path) -> None:
        """Read ``tokenizer.json`` where there is one."""
        path = directory / self.tokenizer_file
        if path.exists():
            self.use(Tokenizer.from_file(str(path)))

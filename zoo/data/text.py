"""Text: strings or ready ids to ``token_ids``, through the ``tokenizers`` library."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from zoo.data.cleaning import CLEANINGS
from zoo.data.tokenizers import CLIP_END_ID, CLIP_VOCABULARY, clip_tokenizer, find_merges
from zoo.errors import ConfigError, DataError, WeightsError, name_choices
from zoo.registry import register

SPECIAL_TOKENS = ("<pad>", "<sot>", "<eot>")  # ids 0, 1, 2 of a tokenizer that is trained here
TRAINED_END_ID = 2
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
TOKENIZERS = ("trained", "clip", "given")
PADDINGS = ("longest", "context_length")


@register("processor")
class TextProcessor:
    """Cleaned text as token ids between start and end symbols, padded to the longest of the batch.

    The tokenizer travels with the weights as ``tokenizer.json``; where there is one it is used, whatever ``tokenizer`` says.

    Args:
        vocab_size: the most entries that the tokenizer may have; must equal the text encoder's.
        context_length: longer texts are cut, and keep their end symbol.
        tokenizer: where it comes from: "trained" on a run's captions (byte-level BPE), "clip" (OpenAI's merges, see
            ``zoo.data.tokenizers.find_merges``), "given" (only with weights; without one ready ids are taken).
        cleaning: what is done to a text before its tokenizer sees it: one of ``zoo.data.cleaning.CLEANINGS``.
        max_length: cut to fewer tokens than the encoder could take (sentence-transformers' max_seq_length).
        pad_to: "longest" of the batch, or "context_length".
        mask_padding: False gives no mask, so that an encoder that looks both ways sees the padding too, as SigLIP's was trained
            to; ``pad_to`` is then "context_length".

    Raises:
        ConfigError: an unknown word, sizes too small for what has to fit, an end symbol that CLIP's tokenizer does not have.
    """

    encoder_keys = ("vocab_size", "context_length")
    tokenizer_file = "tokenizer.json"

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        tokenizer: str = "trained",
        cleaning: str = "whitespace",
        lowercase: bool = True,
        max_length: int | None = None,
        pad_to: str = "longest",
        pad_token_id: int = 0,
        eot_token_id: int = TRAINED_END_ID,
        mask_padding: bool = True,
    ) -> None:
        for key, value, legal in (("tokenizer", tokenizer, TOKENIZERS), ("cleaning", cleaning, CLEANINGS), ("pad_to", pad_to, PADDINGS)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        _refuse_sizes(tokenizer, vocab_size, context_length, eot_token_id)
        if not mask_padding and pad_to != "context_length":
            raise ConfigError(
                f"mask_padding: false lets padding change what a text means; allowed with pad_to=context_length only, got {pad_to!r}"
            )
        self.vocab_size, self.context_length, self.max_length = vocab_size, context_length, max_length
        self.source, self.cleaning, self.lowercase = tokenizer, cleaning, lowercase
        self.pad_to, self.pad_token_id, self.eot_token_id, self.mask_padding = pad_to, pad_token_id, eot_token_id, mask_padding
        self._tokenizer: Tokenizer | None = None
        self._has_searched = tokenizer != "clip"

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, where there is one; CLIP's is built when it is first asked for, because that takes a quarter of a second."""
        if self._tokenizer is None and not self._has_searched:
            self._has_searched = True
            merges = find_merges()
            if merges is not None:
                self.use(clip_tokenizer(merges))
        return self._tokenizer

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords, for ``processor.json``."""
        keys = ("vocab_size", "context_length", "cleaning", "lowercase", "max_length", "pad_to", "pad_token_id", "eot_token_id")
        return {**{key: getattr(self, key) for key in (*keys, "mask_padding")}, "tokenizer": self.source}

    @property
    def is_fitted(self) -> bool:
        """Whether there is a tokenizer to use."""
        return self.tokenizer is not None

    def fit(self, captions: Iterable[str]) -> None:
        """Train the tokenizer; the result depends on the captions only, not on their order.

        Raises:
            ConfigError: this processor's tokenizer is another's, or its texts would end with an id that a trained one does not have.
        """
        if self.source != "trained":
            raise ConfigError(f"system.processor.text.tokenizer: {self.source!r}, and there is none: {self._how_to_get_one()}")
        if self.eot_token_id != TRAINED_END_ID:
            raise ConfigError(
                f"system.processor.text.eot_token_id: {self.eot_token_id}, but a tokenizer that is trained on captions ends texts with "
                f"{TRAINED_END_ID}; set it here and in system.encoders.text.eot_token_id"
            )
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
        self._tokenizer = tokenizer

    def clean(self, text: str) -> str:
        """What the tokenizer is given of a text.

        Raises:
            DataError: cleaning needs a library that is not installed.
        """
        text = CLEANINGS[self.cleaning](text)
        return text.lower() if self.lowercase else text

    def item(self, raw: Any) -> Int[Tensor, " length"]:
        """One string as token ids with start and end symbols, cut to ``context_length``."""
        if not isinstance(raw, str):
            raise DataError(f"a text is a string; got {type(raw).__name__} {str(raw)[:60]!r}")
        if self.tokenizer is None:
            raise DataError(f"this system has no tokenizer yet: {self._how_to_get_one()}, or give token ids")
        ids = self.tokenizer.encode(self.clean(raw)).ids
        longest = min(self.context_length, self.max_length or self.context_length)
        if len(ids) > longest:
            ids = [*ids[: longest - 1], self.eot_token_id]
        return torch.tensor(ids, dtype=torch.int64)

    def _how_to_get_one(self) -> str:
        if self.source == "clip":
            return "CLIP's merges are not here; pip install open_clip_torch, or set ZOO_CLIP_MERGES to a file bpe_simple_vocab_16e6.txt.gz"
        if self.source == "given":
            return "its weights brought none; put tokenizer.json beside them"
        return "train it, or load trained weights"

    def collate(self, items: Sequence[Int[Tensor, " _"]]) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"] | None]:
        """Pad on the right; the mask is True at real tokens."""
        longest = self.context_length if self.pad_to == "context_length" else max(len(ids) for ids in items)
        token_ids = torch.full((len(items), longest), self.pad_token_id, dtype=torch.int64)
        mask = torch.zeros(len(items), longest, dtype=torch.bool)
        for row, ids in enumerate(items):
            token_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return token_ids, mask if self.mask_padding else None

    def __call__(self, raw: Any) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"] | None]:
        """A list of strings, or ready ids [B, L], whose padding is the run of ``pad_token_id`` at the end."""
        if isinstance(raw, Tensor):
            if raw.ndim != 2 or raw.dtype != torch.int64:
                raise DataError(f"token_ids are {raw.dtype} of shape {list(raw.shape)}; allowed is int64 [batch, length]")
            return raw, self._real(raw) if self.mask_padding else None
        return self.collate([self.item(text) for text in ([raw] if isinstance(raw, str) else raw)])

    def _real(self, token_ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Which of ready ids are no padding: 7 0 5 0 0 -> T T T F F with padding 0, which may also be a token (CLIP's "!").

        Where the end symbol is the padding too (transformers' CLIP), the first of the run is the end: 7 5 9 9 9 -> T T T F F.
        """
        positions = torch.arange(1, token_ids.shape[1] + 1, device=token_ids.device)
        length = ((token_ids != self.pad_token_id) * positions).amax(1, keepdim=True) + int(self.pad_token_id == self.eot_token_id)
        return positions <= length

    def meta(self, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """A batch without data, for the check on the meta device."""
        shape = (batch_size, self.context_length)
        mask = torch.empty(shape, dtype=torch.bool, device="meta") if self.mask_padding else None
        return torch.empty(shape, dtype=torch.int64, device="meta"), mask

    def save(self, directory: Path) -> None:
        """Write ``tokenizer.json`` where there is a tokenizer."""
        if self.tokenizer is not None:
            self.tokenizer.save(str(directory / self.tokenizer_file))

    def load(self, directory: Path) -> None:
        """Read ``tokenizer.json`` where there is one."""
        path = directory / self.tokenizer_file
        if path.exists():
            self.use(Tokenizer.from_file(str(path)))


def _refuse_sizes(tokenizer: str, vocab_size: int, context_length: int, eot_token_id: int) -> None:
    smallest = {"trained": SMALLEST_VOCABULARY, "clip": CLIP_VOCABULARY, "given": 1}[tokenizer]
    if vocab_size < smallest:
        what = "CLIP's tokenizer" if tokenizer == "clip" else "byte-level BPE"
        raise ConfigError(f"vocab_size: {vocab_size} is too small; {what} needs at least {smallest}")
    if context_length < 3:
        raise ConfigError(f"context_length: {context_length} is too small; start, end and one token need at least 3")
    if tokenizer == "clip" and eot_token_id != CLIP_END_ID:
        raise ConfigError(f"eot_token_id: got {eot_token_id}; CLIP's tokenizer ends texts with {CLIP_END_ID}")

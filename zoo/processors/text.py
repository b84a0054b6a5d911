"""Text processor: converts strings, or accepts token ids, for a text encoder, with the ``tokenizers`` library."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from zoo.errors import ConfigError, DataError, WeightsError, name_choices
from zoo.processors.media.read_aloud import SYMBOLS, fitting_pieces, symbol_tokenizer
from zoo.processors.tokenizers.cleaning import CLEANINGS
from zoo.processors.tokenizers.library_tokenizers import CLIP_END_ID, CLIP_VOCABULARY, bert_template, clip_tokenizer, find_mask, find_merges
from zoo.processors.tokenizers.piece_tokenizer import AnyTokenizer
from zoo.processors.tokenizers.tokenizer_file import read_own_file
from zoo.registry import register
from zoo.types import ModalityProcessor

SPECIAL_TOKENS = ("<pad>", "<sot>", "<eot>")  # ids 0, 1, 2 of a tokenizer trained on captions
TRAINED_END_ID = 2
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)  # all bytes
WORD_PIECE_SYMBOLS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")  # ids 0 to 4; the end symbol [SEP] also has id 2
LETTERS = 100  # size of the alphabet of word pieces: the most frequent letters
TOKENIZERS = ("trained", "word_pieces", "clip", "given", *SYMBOLS)
SYMBOL_COUNTS = {name: len(symbols) for name, symbols in SYMBOLS.items()}
PADDINGS = ("longest", "context_length")


@register("processor")
class TextProcessor(ModalityProcessor):
    """Conversion of texts, or pairs of texts, to padded token ids between start and end symbols.

    The tokenizer is saved with the weights as ``tokenizer.json``. If that file exists it is used, regardless of the argument
    ``tokenizer``.

    Args:
        vocab_size: maximum number of entries of the tokenizer; must equal the text encoder's ``vocab_size``.
        context_length: maximum number of tokens; longer texts are truncated and keep their end symbol.
        tokenizer: origin of the tokenizer. "trained": byte-level BPE trained on a run's captions. "word_pieces": BERT's word pieces,
            also trained on the captions, with a mask symbol and pairs of texts. "clip": OpenAI's merges (see
            ``zoo.processors.tokenizers.library_tokenizers.find_merges``). "given": loaded with the weights; without it only token ids are
            accepted. "characters", "nvidia_characters", "phonemes": symbol tables for speech synthesis
            (``zoo.processors.media.read_aloud``), with one token per symbol and no start or end symbols; a text that is too long raises
            an error.
        cleaning: cleaning of the text before tokenization, one of ``zoo.processors.tokenizers.cleaning.CLEANINGS``.
        lowercase: convert texts to lower case.
        prompt: put before each single text (sentence-transformers' default prompt), for example "query: ".
        max_length: truncate to fewer tokens than ``context_length`` (sentence-transformers' max_seq_length).
        pad_to: "longest" pads to the longest text of the batch, "context_length" to the full length.
        pad_token_id: id of the padding.
        eot_token_id: id of the end symbol.
        reserved_ids: last ids of the vocabulary that a trained tokenizer leaves unused, for sentinels and mask symbols
            (``zoo.data.denoising``).
        mask_padding: False gives no mask, so a bidirectional encoder also attends to the padding, as SigLIP does; this requires
            ``pad_to`` "context_length".

    Raises:
        ConfigError: a name is unknown, a size is too small, or ``eot_token_id`` does not fit CLIP's tokenizer.
    """

    modality = "text"
    context_length: int
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
        prompt: str = "",
        max_length: int | None = None,
        pad_to: str = "longest",
        pad_token_id: int = 0,
        eot_token_id: int = TRAINED_END_ID,
        mask_padding: bool = True,
        reserved_ids: int = 0,
    ) -> None:
        for key, value, legal in (("tokenizer", tokenizer, TOKENIZERS), ("cleaning", cleaning, CLEANINGS), ("pad_to", pad_to, PADDINGS)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        if reserved_ids < 0:
            raise ConfigError(f"reserved_ids: {reserved_ids}; allowed is 0 or more")
        _refuse_sizes(tokenizer, vocab_size - reserved_ids, context_length, eot_token_id)
        self.reserved_ids = reserved_ids
        if not mask_padding and pad_to != "context_length":
            raise ConfigError(
                "mask_padding: false makes the encoder attend to padding, so the result depends on the padded length; it is allowed only "
                f"with pad_to=context_length, got {pad_to!r}"
            )
        self.vocab_size, self.context_length, self.max_length = vocab_size, context_length, max_length
        self.source, self.cleaning, self.lowercase, self.prompt = tokenizer, cleaning, lowercase, prompt
        self.pad_to, self.pad_token_id, self.eot_token_id, self.mask_padding = pad_to, pad_token_id, eot_token_id, mask_padding
        self._tokenizer: AnyTokenizer | None = symbol_tokenizer(tokenizer) if tokenizer in SYMBOLS else None
        self._has_searched = tokenizer != "clip"

    @property
    def tokenizer(self) -> AnyTokenizer | None:
        """The tokenizer, or None; CLIP's is built at the first access, because that takes a quarter of a second."""
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
        found = {**{key: getattr(self, key) for key in (*keys, "mask_padding")}, "tokenizer": self.source}
        later = {"prompt": self.prompt, "reserved_ids": self.reserved_ids}  # hashes of processors from before these stay as they are
        return found | {key: value for key, value in later.items() if value}

    @property
    def is_fitted(self) -> bool:
        """True if the processor has a tokenizer."""
        return self.tokenizer is not None

    def fit(self, captions: Iterable[str]) -> None:
        """Train the tokenizer; the result depends only on the set of captions, not on their order.

        Raises:
            ConfigError: this kind of tokenizer cannot be trained, or ``eot_token_id`` is not the end symbol of a trained one.
        """
        trainings = {"trained": _train_bytes, "word_pieces": _train_word_pieces}
        if self.source not in trainings:
            raise ConfigError(
                f"system.processor.text.tokenizer: {self.source!r}, but there is no tokenizer and it cannot be trained: "
                f"{self._how_to_get_one()}"
            )
        if self.eot_token_id != TRAINED_END_ID:
            raise ConfigError(
                f"system.processor.text.eot_token_id: {self.eot_token_id}, but a tokenizer that is trained on captions ends texts with "
                f"{TRAINED_END_ID}; set {TRAINED_END_ID} here and in system.encoders.text.eot_token_id"
            )
        size = self.vocab_size - self.reserved_ids
        self.use(trainings[self.source](sorted({self.clean(caption) for caption in captions}), size, self.lowercase))

    def use(self, tokenizer: AnyTokenizer) -> None:
        """Use an existing tokenizer.

        Raises:
            WeightsError: the tokenizer has more entries than ``vocab_size``.
        """
        if tokenizer.get_vocab_size() > self.vocab_size:
            raise WeightsError(f"the tokenizer has {tokenizer.get_vocab_size()} entries; vocab_size allows {self.vocab_size}")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer

    def clean(self, text: str) -> str:
        """Clean a text for the tokenizer, including lower case if set.

        Raises:
            DataError: the cleaning needs a library that is not installed.
        """
        text = CLEANINGS[self.cleaning](text)
        inside = self.source == "word_pieces"  # this tokenizer lowercases itself, except the symbol [MASK] in a text
        return text.lower() if self.lowercase and not inside else text

    @property
    def mask_token_id(self) -> int:
        """Id of the mask symbol of masked-language modelling.

        Raises:
            ConfigError: there is no tokenizer, or it has no mask symbol.
        """
        found = None if self.tokenizer is None else find_mask(self.tokenizer)
        if found is None:
            raise ConfigError(
                f"system.processor.text.tokenizer: {self.source!r} has no mask symbol ([MASK] or <mask>); choose word_pieces, or start "
                "from weights whose tokenizer has one"
            )
        return found

    def item(self, raw: Any) -> Int[Tensor, " length"]:
        """Convert one string, or a pair of strings, to token ids with start and end symbols, truncated to ``context_length``.

        Raises:
            DataError: the input is neither a string nor a pair, there is no tokenizer, or a text of symbols is empty or too long.
            ConfigError: ``context_length`` is too small for a pair.
        """
        pair = tuple(raw) if isinstance(raw, tuple | list) and len(raw) == 2 else (raw,)
        if not all(isinstance(text, str) for text in pair):
            raise DataError(f"a text must be a string, or a pair of strings; got {type(raw).__name__} {str(raw)[:60]!r}")
        if self.tokenizer is None:
            raise DataError(f"this system has no tokenizer yet: {self._how_to_get_one()}; or pass token ids")
        longest = min(self.context_length, self.max_length or self.context_length)
        if len(pair) == 2:
            return torch.tensor(self._pair(self.clean(str(pair[0])), self.clean(str(pair[1])), longest), dtype=torch.int64)
        ids = self.tokenizer.encode(self.clean(self.prompt + str(pair[0]))).ids
        if self.source in SYMBOLS and not 0 < len(ids) <= longest:
            raise DataError(
                f"a text of {len(ids)} symbols cannot be spoken in one piece; allowed are 1 to {longest} symbols: {raw[:60]!r}; split it"
            )
        if len(ids) > longest:
            ids = self._cut(self.clean(self.prompt + str(pair[0])), ids, longest)
        return torch.tensor(ids, dtype=torch.int64)

    def _cut(self, text: str, ids: list[int], longest: int) -> list[int]:
        """Return the ids of a text that is too long, with all symbols around it; XLNet ends texts with two, ``<sep> <cls>``."""
        if isinstance(self.tokenizer, Tokenizer) and 1 < (symbols := self.tokenizer.num_special_tokens_to_add(is_pair=False)) < longest:
            kept = self.tokenizer.encode(text, add_special_tokens=False)
            kept.truncate(longest - symbols)
            return self.tokenizer.post_process(kept).ids
        return [*ids[: longest - 1], self.eot_token_id]

    def speakable_pieces(self, sentence: str) -> list[str]:
        """Return a sentence in pieces of at most ``context_length`` symbols; empty if no symbol of it can be spoken."""
        pieces = fitting_pieces(sentence, self.context_length, self._num_symbols)
        return [piece for piece in pieces if self._num_symbols(piece)]

    def unspoken(self, text: str) -> str:
        """Return the letters and signs of a text that a symbol table cannot express, once each; empty for other tokenizers."""
        if self.source not in SYMBOLS:
            return ""
        dropped = set(self.clean(text)) - set(SYMBOLS[self.source])
        foreign = [letter for letter in dict.fromkeys(text) if not letter.isascii() and unicodedata.category(letter)[0] in "LNS"]
        return "".join(letter for letter in foreign if dropped & set(unicodedata.normalize("NFKD", letter.lower())))

    def _num_symbols(self, text: str) -> int:
        assert self.tokenizer is not None  # a symbol table is a tokenizer from the start
        return len(self.tokenizer.encode(self.clean(text)).ids)

    def _pair(self, first: str, second: str, longest: int) -> list[int]:
        """Join two texts in one row; the longer one is truncated first, as in transformers."""
        if not isinstance(self.tokenizer, Tokenizer):
            raise DataError("a pair of texts: MarianMT's tokenizer takes single texts; give one text per item")
        one, other = (self.tokenizer.encode(text, add_special_tokens=False) for text in (first, second))
        room = longest - self.tokenizer.num_special_tokens_to_add(is_pair=True)
        if room < 2:
            raise ConfigError(f"context_length: {longest} is too small for two texts and their symbols; give {longest - room + 2} or more")
        for text, share in zip((one, other), _shares(len(one.ids), len(other.ids), room), strict=True):
            text.truncate(share)
        return self.tokenizer.post_process(one, other).ids

    def _how_to_get_one(self) -> str:
        if self.source == "clip":
            return "CLIP's merges were not found; zoo install clip, or set ZOO_CLIP_MERGES to a file bpe_simple_vocab_16e6.txt.gz"
        if self.source == "given":
            return "the weights came without one; put tokenizer.json beside them"
        return "train the system, or load trained weights"

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
        """Convert a list of strings, or token ids [B, L], in which the run of ``pad_token_id`` at the end of a row is padding."""
        if isinstance(raw, Tensor):
            if raw.ndim != 2 or raw.dtype != torch.int64:
                raise DataError(f"token_ids are {raw.dtype} of shape {list(raw.shape)}; allowed is int64 [batch, length]")
            return raw, self._real(raw) if self.mask_padding else None
        return self.collate([self.item(text) for text in ([raw] if isinstance(raw, str) else raw)])

    def _real(self, token_ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Return the mask of given ids: True up to the padding at the end.

        With padding 0: 7 0 5 0 0 -> T T T F F; id 0 may also be a token (CLIP's "!"). If the end symbol is also the padding
        (transformers' CLIP), the first of the run is the end symbol: with 9, 7 5 9 9 9 -> T T T F F.
        """
        positions = torch.arange(1, token_ids.shape[1] + 1, device=token_ids.device)
        length = ((token_ids != self.pad_token_id) * positions).amax(1, keepdim=True) + int(self.pad_token_id == self.eot_token_id)
        return positions <= length

    def meta(self, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Return token ids and mask without data, for checks on the meta device."""
        shape = (batch_size, self.context_length)
        mask = torch.empty(shape, dtype=torch.bool, device="meta") if self.mask_padding else None
        return torch.empty(shape, dtype=torch.int64, device="meta"), mask

    def save(self, directory: Path) -> None:
        """Write ``tokenizer.json`` if there is a tokenizer."""
        if self.tokenizer is not None:
            self.tokenizer.save(str(directory / self.tokenizer_file))

    def load(self, directory: Path) -> None:
        """Read ``tokenizer.json`` if it exists."""
        path = directory / self.tokenizer_file
        if path.exists():
            self.use(read_own_file(path))


def _refuse_sizes(tokenizer: str, vocab_size: int, context_length: int, eot_token_id: int) -> None:
    letters = 2 * LETTERS + len(WORD_PIECE_SYMBOLS)  # each letter at the start and inside of words
    smallest = {"trained": SMALLEST_VOCABULARY, "word_pieces": letters, "clip": CLIP_VOCABULARY, "given": 1, **SYMBOL_COUNTS}[tokenizer]
    if vocab_size < smallest:
        kind = {
            "clip": "CLIP's tokenizer",
            "word_pieces": "a vocabulary of word pieces",
            **dict.fromkeys(SYMBOLS, f"the table {tokenizer!r}"),
        }.get(tokenizer, "byte-level BPE")
        raise ConfigError(f"vocab_size: {vocab_size} is too small; {kind} needs at least {smallest}")
    if context_length < 3:
        raise ConfigError(f"context_length: {context_length} is too small; at least 3 are needed: start symbol, one token, end symbol")
    if tokenizer == "clip" and eot_token_id != CLIP_END_ID:
        raise ConfigError(f"eot_token_id: got {eot_token_id}; CLIP's tokenizer ends texts with {CLIP_END_ID}")


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the number of tokens that two texts keep; the longer one is truncated until both fit.

    Lengths 2 and 9 with room for 6 keep 2 and 4; 9 and 9 keep 3 each.
    """
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    return (short, room - short) if first <= second else (room - short, short)


def _train_bytes(texts: Sequence[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """Train byte-level BPE with start and end symbols on cleaned texts; ``lowercase`` has no effect, because cleaning applied it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<sot> $A <eot>", special_tokens=[("<sot>", 1), ("<eot>", 2)])
    return tokenizer


def _train_word_pieces(texts: Sequence[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """Train BERT's word pieces; a word with a letter outside the alphabet becomes [UNK].

    The library orders letters differently in each run, which also changes the order of equally frequent pieces. To get the same
    tokenizer in every run, the letters are counted and numbered here first.
    """
    tokenizer = _word_pieces({"[UNK]": 0}, lowercase)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))  # type: ignore[union-attr]
    kept = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))[:LETTERS]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*WORD_PIECE_SYMBOLS, *(f"##{letter}" for letter in sorted(kept))],
        initial_alphabet=sorted(kept),
        limit_alphabet=len(kept),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = _word_pieces(tokenizer.get_vocab(), lowercase)
    trained.add_special_tokens([AddedToken(symbol, special=True, normalized=False) for symbol in WORD_PIECE_SYMBOLS])
    trained.post_processor = bert_template("[CLS]", 1, "[SEP]", 2)
    return trained


def _word_pieces(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer

"""Tokenizers of other libraries: CLIP's from OpenAI's merges, import from a transformers directory, and export to one.

References: openai/CLIP ``simple_tokenizer.py``; transformers 5.17, ``tokenization_clip.py``, ``tokenization_siglip.py`` and
``tokenization_bert.py``.

Where we differ: if a text contains the string ``<|endoftext|>``, it becomes the end symbol, as in transformers; OpenAI's code tokenizes
its characters. OpenAI's code uses the newest Unicode definition of letters, the ``tokenizers`` library an older one (1,855 code points
of 2023 and later count as symbols).
"""

import gzip
import importlib.util
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from zoo.errors import WeightsError
from zoo.processors.tokenizers.piece_tokenizer import AnyTokenizer
from zoo.processors.tokenizers.tokenizer_file import read_safely, read_tokenizer_file, refuse_no_sentence_pieces
from zoo.storage.outside import read_json_object
from zoo.storage.places import cache_directory

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
PADS = {"CLIPTokenizer": "<|endoftext|>", "SiglipTokenizer": "</s>", "BertTokenizer": "[PAD]"}  # if the config names none
MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES_VARIABLE = "ZOO_CLIP_MERGES"
NUM_MERGES = 49152 - 256 - 2  # OpenAI's file has more merges; the first ones make the vocabulary of 49,408
CLIP_SYMBOLS = ("<|startoftext|>", "<|endoftext|>")
CLIP_VOCABULARY = 512 + NUM_MERGES + len(CLIP_SYMBOLS)
CLIP_END_ID = CLIP_VOCABULARY - 1
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# OpenAI's regex ignores case. It therefore treats a long s (U+017F) as s, and a combining iota (U+0345) matches none of its classes.
OPENAI_WORDS = CLIP_WORDS.replace("|'s|", r"|'s|'\x{17F}|").replace(r"[^\s", r"[^\x{345}\s")
MASKS = ("[MASK]", "<mask>")  # mask symbols of BERT and ALBERT, and of RoBERTa
SENTENCE_PIECE = ("spiece.model", "sentencepiece.model", "tokenizer.model", "spm.model", "sentencepiece.bpe.model")
PADDING = ("[PAD]", "<pad>")  # padding symbols, looked for if no config names one
# Classes (without "Fast") whose old files are read here; transformers converts those of all others. "" is a directory that names none.
WORD_PIECES = ("BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer", "MobileBertTokenizer")
PIECES_WITH_END = ("T5Tokenizer", "SiglipTokenizer", "Siglip2Tokenizer", "GemmaTokenizer")
TYPES_WITH_END = ("", "t5", "mt5", "umt5", "siglip", "siglip2")  # model types of directories that name no class


@dataclass(frozen=True)
class ForeignTokenizer:
    """Tokenizer of another library, with the settings that reproduce its preprocessing.

    Attributes:
        tokenizer: the tokenizer, without padding and truncation.
        settings: keywords of ``zoo.processors.text.TextProcessor``.
    """

    tokenizer: Tokenizer
    settings: dict[str, Any]


def find_merges() -> Path | None:
    """Find OpenAI's merges: the file named by ``ZOO_CLIP_MERGES``, in the cache of ``zoo fetch``, or in an installed open_clip.

    Returns:
        The path, or None if the file is in none of these places.

    Raises:
        WeightsError: ``ZOO_CLIP_MERGES`` is set, but is not the path of a file.
    """
    named = os.environ.get(MERGES_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise WeightsError(f"{MERGES_VARIABLE}: {named} is not a file; give the path of {MERGES_FILE}")
        return Path(named)
    cached = sorted(cache_directory().glob(f"*/{MERGES_FILE}"))
    package = importlib.util.find_spec("open_clip")
    folders = [Path(place) for place in (package.submodule_search_locations or [])] if package is not None else []
    return next((path for path in [*cached, *(folder / MERGES_FILE for folder in folders)] if path.is_file()), None)


def clip_tokenizer(merges: Path) -> Tokenizer:
    """Build CLIP's tokenizer from OpenAI's file of merges, plain or gzipped; texts need the cleaning "web" (``tokenizers.cleaning``).

    Raises:
        WeightsError: the file cannot be read or is not OpenAI's file of merges.
    """
    try:
        content = merges.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8")
        pairs = [tuple(line.split()) for line in text.split("\n")[1 : NUM_MERGES + 1]]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise WeightsError(f"{merges}: cannot be read ({error}); it should be OpenAI's {MERGES_FILE}") from error
    if len(pairs) != NUM_MERGES or any(len(pair) != 2 for pair in pairs):
        raise WeightsError(f"{merges}: holds {len(pairs)} merges of CLIP, not {NUM_MERGES}; it should be OpenAI's {MERGES_FILE}")
    letters = _byte_letters()
    # The order defines the ids: bytes, bytes at the end of a word, one token per merge, special tokens.
    entries = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs), *CLIP_SYMBOLS]
    return build_clip_tokenizer({entry: i for i, entry in enumerate(entries)}, pairs)


def _byte_letters() -> list[str]:
    """Return the 256 characters that represent bytes, in CLIP's order: printable bytes first."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return [*sorted(letter for letter in alphabet if ord(letter) < 256), *sorted(letter for letter in alphabet if ord(letter) >= 256)]


def build_clip_tokenizer(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, ...]], symbols: tuple[str, str] = CLIP_SYMBOLS, *, compose: bool = False
) -> Tokenizer:
    """Build byte-level BPE with ``</w>`` at the end of words, and a start and an end symbol around each text.

    Args:
        vocabulary: ids by token.
        merges: pairs of tokens, by rank.
        symbols: start and end symbol.
        compose: normalise texts to Unicode form C, as transformers does; in OpenAI's code ftfy does this before the tokenizer.
    """
    start, end = symbols
    tokenizer = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(merges), end_of_word_suffix="</w>", unk_token=end))  # type: ignore[arg-type]
    steps = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *steps] if compose else steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS if compose else OPENAI_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=compose),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(symbol, special=True, normalized=False) for symbol in symbols])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(symbol, vocabulary[symbol]) for symbol in symbols]
    )
    return tokenizer


def read_tokenizer(directory: Path, *, model_type: str = "") -> ForeignTokenizer | None:
    """Read the tokenizer of a transformers directory and its settings; return None if the directory has no tokenizer.

    Args:
        model_type: ``model_type`` of the directory's ``config.json``; for "siglip" and "siglip2", texts are padded to the full length
            and, unless the tokenizer is Gemma's, punctuation is removed.

    Raises:
        WeightsError: a file cannot be read, or the libraries that convert a SentencePiece model are missing.
    """
    config = {**(read_json(directory / SPECIAL_TOKENS) or {}), **(read_json(directory / TOKENIZER_CONFIG) or {})}
    tokenizer = _read_any(directory, config, model_type)
    if tokenizer is None:
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    symbols = tokenizer.encode("").ids  # the symbols around an empty text; the last one is the end symbol
    end = symbols[-1] if symbols else None
    pad = _id_of(tokenizer, config.get("pad_token") or PADS.get(_class_of(config)))
    if pad is None:
        pad = next((found for word in PADDING if (found := tokenizer.token_to_id(word)) is not None), None)
    settings: dict[str, Any] = {"tokenizer": "given", "cleaning": "none", "lowercase": False}
    settings["pad_token_id"] = pad if pad is not None else 0
    settings["eot_token_id"] = end if end is not None else settings["pad_token_id"]
    return ForeignTokenizer(tokenizer, settings | (_siglip_settings(config, model_type) if model_type in ("siglip", "siglip2") else {}))


def _class_of(config: Mapping[str, Any]) -> str:
    return str(config.get("tokenizer_class") or "").removesuffix("Fast")


def _siglip_settings(config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return the settings of SigLIP; its own tokenizer removes punctuation in Python, SigLIP 2's Gemma tokenizer does not.

    Texts are padded on the right without a mask, as both were trained; transformers' ``Siglip2Tokenizer`` pads on the left.
    """
    padding = {"pad_to": "context_length", "mask_padding": False}
    if model_type == "siglip2" and _class_of(config) in ("", "GemmaTokenizer"):
        return {**padding, "lowercase": True}
    if _class_of(config) not in ("", "SiglipTokenizer", "T5Tokenizer"):
        # SigLIP 2 was trained on lower case. Its own class always lowers, and Gemma's class leaves it to the user.
        return {**padding, "lowercase": bool(config.get("do_lower_case")) or _class_of(config) == "Siglip2Tokenizer"}
    return {**padding, "cleaning": "punctuation", "lowercase": bool(config.get("do_lower_case", True))}


def _read_any(directory: Path, config: Mapping[str, Any], model_type: str) -> Tokenizer | None:
    kind = _class_of(config)
    if (directory / TOKENIZER_FILE).is_file():
        return read_tokenizer_file(directory / TOKENIZER_FILE)
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        if kind in ("", "CLIPTokenizer") and model_type in ("", "clip", "metaclip_2", "siglip"):
            return read_safely(lambda: _read_bpe(directory, config), directory)
        return read_safely(lambda: read_with_transformers(directory), directory)
    if (directory / "vocab.txt").is_file():
        if kind in ("", *WORD_PIECES):
            return read_safely(lambda: _read_word_pieces(directory, config), directory)
        return read_safely(lambda: read_with_transformers(directory), directory)
    pieces = next((directory / name for name in SENTENCE_PIECE if (directory / name).is_file()), None)
    if pieces is None:
        return None
    if kind in PIECES_WITH_END or (not kind and model_type in TYPES_WITH_END):
        return read_safely(lambda: _read_sentence_pieces(pieces, config), directory)
    return read_safely(lambda: read_with_transformers(directory, pieces), directory)


def read_with_transformers(directory: Path, pieces: Path | None = None) -> Tokenizer:
    """Read a tokenizer that transformers converts from its old files.

    Args:
        pieces: a SentencePiece model among the files.

    Raises:
        WeightsError: a library is missing, or transformers has the tokenizer as Python code only.
    """
    try:
        import transformers

        if pieces is not None:
            refuse_no_sentence_pieces(pieces)
        found = _instantiate(transformers, directory)
    except ImportError as error:
        what = "a tokenizer without tokenizer.json" if pieces is None else "a SentencePiece model"
        raise WeightsError(
            f"{directory}: {what}, which needs transformers and sentencepiece: zoo install transformers; "
            f"or put the tokenizer's {TOKENIZER_FILE} beside it"
        ) from error
    if not isinstance(found, transformers.PreTrainedTokenizerFast):
        raise WeightsError(
            f"{directory}: its tokenizer, {type(found).__name__} of transformers, is Python code without a {TOKENIZER_FILE}, and is not "
            "read; choose a model with one, or load a copy of the directory without vocabulary files and give ready token ids"
        )
    return found.backend_tokenizer


def _instantiate(library: Any, directory: Path) -> Any:
    """Return the tokenizer that transformers makes of a directory."""
    try:
        return library.AutoTokenizer.from_pretrained(str(directory))
    except ValueError:  # of two models side by side, as in TrOCR, it does not take the class that the config names
        kind = _class_of(read_json(directory / TOKENIZER_CONFIG) or {})
        made = getattr(library, kind, None) if kind else None
        if not (isinstance(made, type) and issubclass(made, library.PreTrainedTokenizerBase)):
            raise
        return made.from_pretrained(str(directory))


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object from a file; return None if the file does not exist.

    Raises:
        WeightsError: the file cannot be read or does not hold an object.
    """
    return read_json_object(path) if path.exists() else None


def word_of(token: Any) -> str | None:
    """Return the string of a special token, which a config gives as a string or as an object with ``content``; otherwise None."""
    word = token.get("content") if isinstance(token, Mapping) else token
    return word if isinstance(word, str) else None


def _id_of(tokenizer: Tokenizer, token: Any) -> int | None:
    word = word_of(token)
    return None if word is None else tokenizer.token_to_id(word)


def _read_bpe(directory: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Read CLIP's ``vocab.json`` and ``merges.txt``; other byte-level tokenizers with these files have no ``</w>`` and are refused."""
    vocabulary = read_json(directory / "vocab.json") or {}
    symbols = (word_of(config.get("bos_token")) or CLIP_SYMBOLS[0], word_of(config.get("eos_token")) or CLIP_SYMBOLS[1])
    missing = [symbol for symbol in symbols if symbol not in vocabulary]
    if missing or not any(word.endswith("</w>") for word in vocabulary):
        raise WeightsError(
            f"{directory / 'vocab.json'}: is not a vocabulary of CLIP ({', '.join(missing) or 'no word ends with </w>'}); put the "
            f"tokenizer's {TOKENIZER_FILE} there (transformers writes it with save_pretrained)"
        )
    lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return build_clip_tokenizer(vocabulary, pairs, symbols, compose=True)


def _read_word_pieces(directory: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Read BERT's ``vocab.txt``, which has one word piece per line."""
    pieces = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {piece: i for i, piece in enumerate(pieces[:-1] if pieces[-1] == "" else pieces)}
    unknown, start, end = (
        word_of(config.get(key)) or word for key, word in (("unk_token", "[UNK]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
    )
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    special = [word for word in (word_of(config.get("pad_token")) or "[PAD]", unknown, start, end, "[MASK]") if word in vocabulary]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    tokenizer.post_processor = bert_template(start, vocabulary[start], end, vocabulary[end])
    return tokenizer


def bert_template(start: str, start_id: int, end: str, end_id: int) -> processors.TemplateProcessing:
    """Return BERT's template: ``[CLS] a [SEP]`` for one text, ``[CLS] a [SEP] b [SEP]`` with type 1 in the second for two texts."""
    return processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A {end} $B:1 {end}:1", special_tokens=[(start, start_id), (end, end_id)]
    )


def find_mask(tokenizer: AnyTokenizer) -> int | None:
    """Return the id of the mask symbol of masked-language modelling; None if the tokenizer has none."""
    return next((number for word in MASKS if (number := tokenizer.token_to_id(word)) is not None), None)


def _read_sentence_pieces(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Convert a SentencePiece model with transformers; ``</s>`` follows each text, as in SigLIP and T5."""
    try:
        from transformers.convert_slow_tokenizer import SpmConverter

        refuse_no_sentence_pieces(path)
        converter = SpmConverter(SimpleNamespace(vocab_file=str(path), add_prefix_space=True, legacy=True))
    except ImportError as error:
        raise WeightsError(
            f"{path}: is a SentencePiece model, which needs transformers and protobuf: zoo install transformers; "
            f"or put the tokenizer's {TOKENIZER_FILE} beside it"
        ) from error
    tokenizer = converter.converted()
    end = word_of(config.get("eos_token")) or "</s>"
    number = tokenizer.token_to_id(end)
    if number is None:
        raise WeightsError(f"{path}: has no piece {end!r}, which ends texts; check eos_token in {TOKENIZER_CONFIG}")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, number)])
    return tokenizer


def is_clips(tokenizer: Tokenizer | None) -> bool:
    """Return True if this is the tokenizer of OpenAI's CLIP; False for any other one and for None."""
    if tokenizer is None:
        return False
    end, first = tokenizer.id_to_token(CLIP_END_ID), tokenizer.id_to_token(320)  # 320 is the word "a" in CLIP's vocabulary
    return tokenizer.get_vocab_size() == CLIP_VOCABULARY and end == CLIP_SYMBOLS[1] and first == "a</w>"


def tokenizer_files(
    tokenizer: Tokenizer, *, cleaning: str, lowercase: bool, pad_token_id: int, eot_token_id: int, max_length: int, masks: bool
) -> dict[str, Any]:
    """Return the contents of ``tokenizer.json`` and ``tokenizer_config.json`` for transformers, by file name.

    Our cleaning becomes a part of the tokenizer's normaliser.

    Args:
        cleaning: name in ``zoo.processors.tokenizers.cleaning.CLEANINGS``.
        lowercase: True if texts are converted to lower case.
        pad_token_id: id of the padding.
        eot_token_id: id of the end symbol.
        max_length: maximum number of tokens of one text.
        masks: True if the model takes a mask of the padding.
    """
    own = Tokenizer.from_str(tokenizer.to_str())
    steps = [] if is_clips(tokenizer) else _cleaning_steps(cleaning, lowercase)  # CLIP's normaliser already contains them
    if steps:
        own.normalizer = normalizers.Sequence([*steps, *([own.normalizer] if own.normalizer is not None else [])])
    start, end = tokenizer.encode("").ids[:-1], tokenizer.id_to_token(eot_token_id)
    special = set(tokenizer.get_added_tokens_decoder())
    config = {
        "tokenizer_class": "CLIPTokenizer" if is_clips(tokenizer) else "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "pad_token": tokenizer.id_to_token(pad_token_id) if pad_token_id in special else end,
        "eos_token": end,
        **({"bos_token": tokenizer.id_to_token(start[0])} if start else {}),
        **({"unk_token": end} if is_clips(tokenizer) else {}),
        "model_input_names": ["input_ids", "attention_mask"] if masks else ["input_ids"],
        "clean_up_tokenization_spaces": False,
    }
    return {TOKENIZER_FILE: json.loads(own.to_str()), TOKENIZER_CONFIG: config}


def _cleaning_steps(cleaning: str, lowercase: bool) -> list[normalizers.Normalizer]:
    punctuation = [normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), "")] if cleaning in ("punctuation", "canonical") else []
    spaces = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()] if cleaning != "none" else []
    return [*punctuation, *spaces, *([normalizers.Lowercase()] if lowercase else [])]


def swap_ids(content: Mapping[str, Any], first: int, second: int) -> dict[str, Any]:
    """Return a copy of a ``tokenizer.json`` with two ids exchanged in its model, added tokens and post-processor."""
    swaps = {first: second, second: first}

    def moved(number: int) -> int:
        return swaps.get(number, number)

    model = {**content["model"], "vocab": {word: moved(number) for word, number in content["model"]["vocab"].items()}}
    added = [{**token, "id": moved(token["id"])} for token in content["added_tokens"]]
    ends = content["post_processor"]
    tokens = {word: {**token, "ids": [moved(number) for number in token["ids"]]} for word, token in ends["special_tokens"].items()}
    return {
        **content,
        "model": model,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "post_processor": {**ends, "special_tokens": tokens},
    }

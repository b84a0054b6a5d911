"""Tokenizers of language models: read from a transformers directory, or trained on a run's captions.

References: transformers 5.17, ``tokenization_utils_tokenizers.py``, ``tokenization_llama.py`` and ``tokenization_gpt2.py``. Where we
differ: we always split text by the rules in ``tokenizer.json``. For the class ``GPT2Tokenizer``, transformers replaces them with the
rules of GPT-2. (SmolLM2's rules split off single digits, so that two spaces before a number are one token here, as in its training, and
two tokens in transformers.)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from zoo.errors import ConfigError
from zoo.processors.chat.messages import MARKERS
from zoo.processors.chat.template_pieces import Symbols
from zoo.processors.chat.templates import CHATML_END, CHATML_START
from zoo.processors.tokenizers.library_tokenizers import (
    SENTENCE_PIECE,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    TOKENIZER_FILE,
    read_json,
    read_with_transformers,
    word_of,
)
from zoo.processors.tokenizers.tokenizer_file import read_safely, read_tokenizer_file
from zoo.storage.checked import check
from zoo.storage.outside import read_text

TEMPLATE_FILE = "chat_template.jinja"
TRAINED_NAMES = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
TRAINED_TOKENS = (*TRAINED_NAMES.values(), CHATML_START, CHATML_END)  # ids 0 to 5 of a tokenizer that is trained here
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")
# Special tokens of transformers' classes; used if tokenizer_config.json names none.
DEFAULT_NAMES = {
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
CLASSES = {"gpt2": "GPT2Tokenizer", "llama": "LlamaTokenizer"}  # by model type; used if there is no tokenizer_config.json
SMALLEST_VOCABULARY = {"trained": 256 + len(TRAINED_TOKENS), "characters": len(TRAINED_TOKENS) + 1}


@dataclass(frozen=True)
class GivenTokenizer:
    """Tokenizer with its special tokens and chat template.

    Attributes:
        names: special tokens by transformers' names: ``{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}``.
        eos_token_ids: further ids that end a text, from ``generation_config.json``.
        chat_template: Jinja source; None if there is none.
    """

    tokenizer: Tokenizer
    names: Mapping[str, str] = field(default_factory=dict)
    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None

    def symbols(self) -> Symbols:
        """Return the special tokens as chat templates need them, without our markers of images and clips."""
        first = (self.tokenizer.encode("").tokens or [""])[0]
        special = {token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special}
        starts = bool(first) and first == self.names.get("bos_token")
        return Symbols(dict(self.names), starts, frozenset(special - set(MARKERS.values())))


def read_language_tokenizer(directory: Path) -> GivenTokenizer | None:
    """Read the tokenizer and chat template from a language model's transformers directory; None if it has no tokenizer.

    Raises:
        WeightsError: a file cannot be read, or a SentencePiece model needs a library that is not installed.
    """
    config = {**(read_json(directory / SPECIAL_TOKENS) or {}), **(read_json(directory / TOKENIZER_CONFIG) or {})}
    model = read_json(directory / "config.json") or {}
    model_type = str(model.get("model_type", ""))
    name = str(config.get("tokenizer_class") or CLASSES.get(model_type, "")).removesuffix("Fast")
    tokenizer = _read(directory, name)
    if tokenizer is None:
        return None
    names = {**DEFAULT_NAMES.get(name, {}), **{key: word for key in NAMES if (word := word_of(config.get(key))) is not None}}
    if name == "LlamaTokenizer" and model_type in ("", "llama"):
        _split_as_llama(tokenizer, config)
    _add_tokens(tokenizer, config, names)
    if not (directory / TOKENIZER_FILE).is_file():  # tokenizer.json itself defines the start and end symbols
        _begin_and_end(tokenizer, config, names)
    return GivenTokenizer(tokenizer, names, _ends(directory, model), read_chat_template(directory))


def read_chat_template(directory: Path) -> str | None:
    """Read the Jinja template of a transformers directory, from its own file or from the tokenizer's config; None if there is none.

    Raises:
        WeightsError: a file cannot be read.
    """
    file = directory / TEMPLATE_FILE
    if file.exists():
        return read_text(file)
    for name in (TOKENIZER_CONFIG, "chat_template.json"):
        found = (read_json(directory / name) or {}).get("chat_template")
        if isinstance(found, list):  # a list of named templates
            found = next((each.get("template") for each in found if each.get("name") == "default"), None)
        if isinstance(found, str):
            return found
    return None


def _read(directory: Path, name: str) -> Tokenizer | None:
    if (directory / TOKENIZER_FILE).is_file():
        return read_tokenizer_file(directory / TOKENIZER_FILE)
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        # Other classes split texts by other rules than GPT-2, which transformers knows.
        read = _read_byte_level if name in ("", "GPT2Tokenizer") else read_with_transformers
        return read_safely(lambda: read(directory), directory)
    pieces = next((directory / name for name in SENTENCE_PIECE if (directory / name).is_file()), None)
    return None if pieces is None else read_safely(lambda: read_with_transformers(directory, pieces), directory)


def _read_byte_level(directory: Path) -> Tokenizer:
    """Read a byte-level BPE from ``vocab.json`` and ``merges.txt``, as GPT-2 has them."""
    lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    tokenizer = Tokenizer(models.BPE(vocab=read_json(directory / "vocab.json") or {}, merges=merges))  # type: ignore[arg-type]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _split_as_llama(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Set LLaMA's rule for the space before a text; with ``legacy``, also before the text after a special token.

    The rule comes from the tokenizer's config, because ``tokenizer.json`` cannot express it.
    """
    prefix = config.get("add_prefix_space")
    scheme = "never" if prefix is False else "always" if config.get("legacy", False) else "first"
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=scheme, split=False)


def _add_tokens(tokenizer: Tokenizer, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Add the special tokens that the config names and that the tokenizer lacks or does not treat as special."""
    listed = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    for _, facts in listed:
        if isinstance(facts, Mapping) and tokenizer.token_to_id(str(facts.get("content"))) is None:
            flags = {key: bool(facts.get(key, False)) for key in ("special", "normalized", "lstrip", "rstrip", "single_word")}
            tokenizer.add_tokens([AddedToken(str(facts["content"]), **flags)])
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    more = [word for key in ("additional_special_tokens", "extra_special_tokens") for word in _words(config.get(key))]
    new = [word for word in dict.fromkeys([*names.values(), *more]) if word not in known]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in new])


def _words(listed: Any) -> list[str]:
    listed = list(listed.values()) if isinstance(listed, Mapping) else listed if isinstance(listed, list) else []
    return [word for each in listed if (word := word_of(each)) is not None]


def _begin_and_end(tokenizer: Tokenizer, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Put the start and end symbols around texts if the config has ``add_bos_token`` or ``add_eos_token``."""
    if not {"add_bos_token", "add_eos_token"} & set(config):
        return
    chosen = [names.get(key) if config.get(f"add_{key}") else None for key in ("bos_token", "eos_token")]
    words = [*([chosen[0]] if chosen[0] else []), "$A", *([chosen[1]] if chosen[1] else [])]
    ids = [(word, tokenizer.token_to_id(word)) for word in dict.fromkeys(chosen) if word]
    tokenizer.post_processor = processors.TemplateProcessing(single=" ".join(words), special_tokens=ids)


def _ends(directory: Path, model: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids that end a text, from ``generation_config.json`` or else from ``config.json``."""
    path = directory / "generation_config.json"
    generation = read_json(path) or {}
    found = check(generation.get("eos_token_id", model.get("eos_token_id")), int | list[int] | None, f"{path}: eos_token_id")
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


def train_tokenizer(captions: Iterable[str], *, vocab_size: int, kind: str, symbols: Sequence[str] = ()) -> GivenTokenizer:
    """Train a tokenizer on captions; the result does not depend on their order.

    Args:
        kind: "trained" for byte-level BPE, "characters" for one token per character.
        symbols: further special tokens, whose ids follow those of ``TRAINED_TOKENS``.

    Raises:
        ConfigError: the captions have more characters than ``vocab_size`` allows.
    """
    texts = sorted({_without_markers(caption) for caption in captions})
    special = (*TRAINED_TOKENS, *symbols)
    if kind == "characters":
        letters = sorted(set("".join(texts)))
        if len(letters) + len(special) > vocab_size:
            raise ConfigError(
                f"vocab_size: {vocab_size} is too small for the {len(letters)} characters of the captions and {len(special)} "
                "special tokens; raise it, or set tokenizer=trained"
            )
        vocabulary = {word: number for number, word in enumerate((*special, *letters))}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=TRAINED_NAMES["unk_token"]))
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    return GivenTokenizer(tokenizer, TRAINED_NAMES)


def with_markers(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that has the markers of images and clips as special tokens, without padding and truncation."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_padding()
    own.no_truncation()
    own.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS.values()])
    return own


def _without_markers(text: str) -> str:
    for marker in MARKERS.values():
        text = text.replace(marker, "")
    return text

"""Whisper's vocabulary: special tokens after a base vocabulary, whose tokenizer is a published one or trained on a run's texts.

Reference: openai-whisper ``tokenizer.py``. Where we differ: if a text contains the string of a special token, its characters are
tokenized; the reference raises an error.
"""

import base64
import binascii
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from zoo.errors import WeightsError
from zoo.processors.tokenizers.chat_tokenizer import read_language_tokenizer

LANGUAGES = {  # names by code, in the order of their ids; the last was added in large-v3
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian", "ko": "korean", "fr": "french",
    "ja": "japanese", "pt": "portuguese", "tr": "turkish", "pl": "polish", "ca": "catalan", "nl": "dutch", "ar": "arabic",
    "sv": "swedish", "it": "italian", "id": "indonesian", "hi": "hindi", "fi": "finnish", "vi": "vietnamese", "he": "hebrew",
    "uk": "ukrainian", "el": "greek", "ms": "malay", "cs": "czech", "ro": "romanian", "da": "danish", "hu": "hungarian",
    "ta": "tamil", "no": "norwegian", "th": "thai", "ur": "urdu", "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian",
    "la": "latin", "mi": "maori", "ml": "malayalam", "cy": "welsh", "sk": "slovak", "te": "telugu", "fa": "persian",
    "lv": "latvian", "bn": "bengali", "sr": "serbian", "az": "azerbaijani", "sl": "slovenian", "kn": "kannada", "et": "estonian",
    "mk": "macedonian", "br": "breton", "eu": "basque", "is": "icelandic", "hy": "armenian", "ne": "nepali", "mn": "mongolian",
    "bs": "bosnian", "kk": "kazakh", "sq": "albanian", "sw": "swahili", "gl": "galician", "mr": "marathi", "pa": "punjabi",
    "si": "sinhala", "km": "khmer", "sn": "shona", "yo": "yoruba", "so": "somali", "af": "afrikaans", "oc": "occitan",
    "ka": "georgian", "be": "belarusian", "tg": "tajik", "sd": "sindhi", "gu": "gujarati", "am": "amharic", "yi": "yiddish",
    "lo": "lao", "uz": "uzbek", "fo": "faroese", "ht": "haitian creole", "ps": "pashto", "tk": "turkmen", "nn": "nynorsk",
    "mt": "maltese", "sa": "sanskrit", "lb": "luxembourgish", "my": "myanmar", "bo": "tibetan", "tl": "tagalog", "mg": "malagasy",
    "as": "assamese", "tt": "tatar", "haw": "hawaiian", "ln": "lingala", "ha": "hausa", "ba": "bashkir", "jw": "javanese",
    "su": "sundanese", "yue": "cantonese",
}  # fmt: skip
SECONDS_PER_TIMESTAMP = 0.02
TASKS = ("translate", "transcribe")  # in the order of their ids
REST = ("startoflm", "startofprev", "nospeech", "notimestamps")  # special tokens after the tasks, in the order of their ids
OLDER = {"<|nocaptions|>": "<|nospeech|>"}  # name in transformers before large-v3
TIKTOKEN_FILES = {True: "multilingual.tiktoken", False: "gpt2.tiktoken"}  # in an installed openai-whisper; the key is ``multilingual``
# Symbols of annotations, which are suppressed in transcripts.
NOISES = ('"', *"#()*+/:;<=>@[\\]^_`{|}~「」『』", *"<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split())
NOTES = tuple("♩♪♫♬♭♮♯")  # several tokens each; suppressing their first token is sufficient


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens, in the order: end, start, languages, tasks, ``REST``, then one timestamp per 20 ms.

    Attributes:
        base: number of tokens before the special ones, which is also the id of the end symbol.
        num_languages: number of language tokens.
        num_timestamps: number of timestamp tokens.
    """

    base: int
    num_languages: int
    num_timestamps: int

    @classmethod
    def of(cls, vocab_size: int, num_languages: int, num_timestamps: int) -> "SpecialIds":
        """Compute the ids from the size of the whole vocabulary; the tokens that are not special form its base."""
        return cls(vocab_size - 2 - num_languages - len(TASKS) - len(REST) - num_timestamps, num_languages, num_timestamps)

    @property
    def sot(self) -> int:
        """Id of the start symbol of a transcript."""
        return self.base + 1

    def task(self, name: str) -> int:
        """Return the id of one of ``TASKS`` or ``REST``."""
        return self.sot + 1 + self.num_languages + (*TASKS, *REST).index(name)

    @property
    def languages(self) -> dict[str, int]:
        """Ids of the language tokens by language code."""
        return {code: self.sot + 1 + number for number, code in enumerate(list(LANGUAGES)[: self.num_languages])}

    @property
    def timestamp_begin(self) -> int:
        """Id of the timestamp of 0 s."""
        return self.task("notimestamps") + 1

    @property
    def end(self) -> int:
        """First id after the timestamps; a fine-tuning may have added tokens from there on."""
        return self.timestamp_begin + self.num_timestamps

    def names(self) -> dict[str, int]:
        """Return the ids by the strings that transformers and openai-whisper use, such as ``<|endoftext|>``."""
        words = {"endoftext": self.base, "startoftranscript": self.sot, **self.languages}
        words |= {word: self.task(word) for word in (*TASKS, *REST)}
        words |= {f"{number * SECONDS_PER_TIMESTAMP:.2f}": self.timestamp_begin + number for number in range(self.num_timestamps)}
        return {f"<|{word}|>": number for word, number in words.items()}


def plain_tokenizer(tokenizer: Tokenizer, ids: SpecialIds) -> Tokenizer:
    """Return the tokenizer without Whisper's special tokens: it adds none of them and tokenizes their strings as text.

    Tokens that a fine-tuning added after the timestamps stay.

    Raises:
        WeightsError: a special token has another id, or another token has the id of a special one.
    """
    content = json.loads(tokenizer.to_str())
    expected = ids.names()
    for word, number in tokenizer.get_vocab(with_added_tokens=True).items():
        elsewhere = expected.get(OLDER.get(word, word), number) != number
        if elsewhere or (ids.base <= number < ids.end and not (word.startswith("<|") and word.endswith("|>"))):  # language names may differ
            raise WeightsError(
                f"the tokenizer has {word!r} with id {number}, which does not fit a vocabulary of {ids.base} tokens, {ids.num_languages} "
                f"languages and {ids.num_timestamps} timestamps (system.processor.transcript); use the tokenizer the model was trained with"
            )
    if not content["added_tokens"] and content["post_processor"] is None:
        return tokenizer  # already reduced
    added = [token for token in content["added_tokens"] if token["id"] >= ids.end]
    content |= {"added_tokens": added, "post_processor": None, "normalizer": None, "truncation": None, "padding": None}
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {word: number for word, number in words.items() if number < ids.base}
    content["model"]["vocab"] |= {token["content"]: token["id"] for token in added}  # or the library would number them from the base on
    return Tokenizer.from_str(json.dumps(content, ensure_ascii=False))


def read_base_tokenizer(directory: Path) -> Tokenizer | None:
    """Read the tokenizer of a transformers or CTranslate2 directory; return None if the directory has no tokenizer.

    Raises:
        WeightsError: a file cannot be read.
    """
    found = read_language_tokenizer(directory)
    return None if found is None else found.tokenizer


def find_tiktoken(*, multilingual: bool) -> Path | None:
    """Find the base vocabulary in an installed openai-whisper; return None if it is not installed."""
    package = importlib.util.find_spec("whisper")
    folders = [Path(place) / "assets" for place in (package.submodule_search_locations or [])] if package is not None else []
    return next((path for folder in folders if (path := folder / TIKTOKEN_FILES[multilingual]).is_file()), None)


def tiktoken_tokenizer(path: Path) -> Tokenizer:
    """Build byte-level BPE from a tiktoken file; each line has the base64 of a token and its rank, which is its id and merge order.

    Raises:
        WeightsError: the file cannot be read or has another format.
    """
    try:
        lines = (line.split() for line in path.read_text(encoding="ascii").splitlines() if line)
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    except (OSError, ValueError, binascii.Error) as error:
        raise WeightsError(f"{path}: cannot be read as a tiktoken file ({error}); download it again") from error
    letters = _byte_letters()
    merges = [_halves(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]

    def spelt(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spelt(token): rank for token, rank in ranks.items() if token}  # Whisper's last token is empty
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(spelt(first), spelt(second)) for first, second in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens whose merge gives this token, found by merging its bytes in the order of their ranks.

    tiktoken files have ranks only, but the ``tokenizers`` library needs the pairs.

    Raises:
        WeightsError: no two tokens of lower rank give this token.
    """
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        pairs = [
            (ranks.get(first + second, len(ranks)), place) for place, (first, second) in enumerate(zip(pieces, pieces[1:], strict=False))
        ]
        rank, place = min(pairs)
        if rank >= ranks[token]:
            raise WeightsError(f"the token {token!r} is not the merge of two others; the tiktoken file is damaged: download it again")
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces[0], pieces[1]


def _byte_letters() -> list[str]:
    """Return the character that represents each byte: itself if printable, otherwise the next one from U+0100 on (GPT-2)."""
    prints = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in prints]
    return [chr(byte) if byte in prints else chr(0x100 + others.index(byte)) for byte in range(256)]


def non_speech_ids(encode: Callable[[str], list[int]]) -> set[int]:
    """Return tokens that are not speech: brackets of annotations, musical notes, dashes before a speaker.

    Source: openai-whisper ``tokenizer.py``, ``non_speech_tokens``.
    """
    found = {encode(start)[0] for start in (" -", " '")}
    for symbol in (*NOISES, *NOTES):
        for pieces in (encode(symbol), encode(" " + symbol)):
            if len(pieces) == 1 or symbol in NOTES:
                found.add(pieces[0])
    return found


def without_unknown(tokenizer: Tokenizer, text: str) -> Iterable[int]:
    """Return the token ids of a text, without unknown characters and special tokens."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    number = None if unknown is None else tokenizer.token_to_id(unknown)
    return (i for i in tokenizer.encode(text, add_special_tokens=False).ids if i != number)

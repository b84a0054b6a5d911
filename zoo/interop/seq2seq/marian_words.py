"""Files of MarianMT's tokenizer: a SentencePiece model for each language, and one vocabulary for both or one for each.

Reference: transformers 5.17, ``tokenization_marian.py``. Its normalisation of punctuation, which only training data had, is never applied.
"""

from pathlib import Path
from typing import Any

from zoo.errors import WeightsError
from zoo.processors.tokenizers.library_tokenizers import TOKENIZER_CONFIG, read_json, word_of
from zoo.processors.tokenizers.piece_tokenizer import PieceTokenizer, piece_model, read_pieces
from zoo.processors.tokenizers.tokenizer_file import guarded, refuse_no_sentence_pieces

MODEL_TYPE = "marian"
SOURCE, TARGET = "source.spm", "target.spm"
VOCABULARY, TARGET_VOCABULARY = "vocab.json", "target_vocab.json"


def recognises(directory: Path) -> bool:
    """Return True if a directory has the files."""
    return all((directory / name).is_file() for name in (SOURCE, TARGET, VOCABULARY))


def read(directory: Path) -> tuple[PieceTokenizer, PieceTokenizer]:
    """Return the tokenizers of source and target texts.

    Raises:
        WeightsError: a file is missing or damaged, or a library that reads it.
    """
    config = read_json(directory / TOKENIZER_CONFIG) or {}
    apart = bool(config.get("separate_vocabs"))
    return _read(directory, SOURCE, VOCABULARY, config), _read(directory, TARGET, TARGET_VOCABULARY if apart else VOCABULARY, config)


def _read(directory: Path, pieces: str, words: str, config: dict[str, Any]) -> PieceTokenizer:
    vocabulary = read_json(directory / words)
    if vocabulary is None or not all(isinstance(number, int) and number >= 0 for number in vocabulary.values()):
        raise WeightsError(f"{directory / words}: is missing or does not map pieces to ids; fetch the directory again")
    symbols = {"unknown": ("unk_token", "<unk>"), "end": ("eos_token", "</s>"), "padding": ("pad_token", "<pad>")}
    chosen = {name: word_of(config.get(theirs)) or usual for name, (theirs, usual) in symbols.items()}
    path = directory / pieces
    refuse_no_sentence_pieces(path)
    return PieceTokenizer(guarded(lambda: read_pieces(path), path, "cannot be read"), vocabulary, **chosen)


def files(words: Any, target: Any) -> dict[str, Any]:
    """Return the files of the tokenizers of two processors, by name.

    Args:
        words: of the source texts.
        target: of the target texts.
    """
    ours, theirs = words.tokenizer, target.tokenizer
    apart = ours.vocabulary != theirs.vocabulary
    config = {
        "tokenizer_class": "MarianTokenizer",
        **{name: ours.symbols[key] for name, key in (("unk_token", "unknown"), ("eos_token", "end"), ("pad_token", "padding"))},
        "separate_vocabs": apart,
        "model_max_length": words.context_length,
        "clean_up_tokenization_spaces": False,
    }
    return {
        SOURCE: piece_model(ours.pieces),
        TARGET: piece_model(theirs.pieces),
        VOCABULARY: ours.vocabulary,
        **({TARGET_VOCABULARY: theirs.vocabulary} if apart else {}),
        TOKENIZER_CONFIG: config,
    }

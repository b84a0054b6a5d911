"""Tokenizer of MarianMT: a SentencePiece model splits texts into pieces, and a vocabulary apart from it gives the ids of the pieces.

Reference: transformers 5.17, ``tokenization_marian.py``. The ``tokenizers`` library computes the pieces. A piece that the vocabulary does
not have is unknown; one that the SentencePiece model does not have, but the vocabulary does, keeps its id. A text may begin with the code
of the target language, ``>>deu<<``, which is one piece.

Where we differ: of two vocabularies, each has its own id of the padding; transformers takes the source's for both.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from zoo.errors import DataError, WeightsError

MARK = "pieces_and_vocabulary"  # key of the serialised form, by which a file is recognised
SPACE = "\u2581"  # SentencePiece's sign of a space
LANGUAGE = re.compile(r">>.*?<<", re.DOTALL)
UNIGRAM, NORMAL, UNKNOWN, CONTROL, UNUSED = 1, 1, 2, 3, 5  # numbers of sentencepiece_model.proto: a model type, and types of pieces
KEPT = (NORMAL, UNKNOWN, CONTROL, UNUSED)


@dataclass(frozen=True)
class Pieces:
    """Pieces of a text and their ids."""

    tokens: list[str]
    ids: list[int]
    type_ids: list[int] = field(default_factory=list)


class PieceTokenizer:
    """Pieces of a text by a SentencePiece model, ids by a vocabulary; has the methods of ``tokenizers.Tokenizer`` that zoo uses.

    Args:
        pieces: of ``read_pieces``.
        vocabulary: ids by piece.
        unknown: piece of the vocabulary that stands for all unknown ones.
        end: piece that ends a text.
        padding: piece of the padding.

    Raises:
        WeightsError: the vocabulary lacks one of the three.
    """

    def __init__(
        self, pieces: Tokenizer, vocabulary: Mapping[str, int], *, unknown: str = "<unk>", end: str = "</s>", padding: str = "<pad>"
    ) -> None:
        self.pieces, self.vocabulary = pieces, dict(vocabulary)
        self.symbols = {"unknown": unknown, "end": end, "padding": padding}
        missing = [symbol for symbol in self.symbols.values() if symbol not in self.vocabulary]
        if missing:
            raise WeightsError(f"vocab.json: lacks {', '.join(missing)}; give the vocabulary that belongs to the weights")
        self.words = {number: piece for piece, number in self.vocabulary.items()}
        self._special = frozenset(self.symbols.values())
        self._split = re.compile("(" + "|".join(re.escape(symbol) for symbol in sorted(self._special, key=len, reverse=True)) + ")")

    def encode(self, sequence: str, pair: None = None, is_pretokenized: bool = False, add_special_tokens: bool = True) -> Pieces:
        """Split a text; special pieces in it keep their meaning, as in transformers.

        Raises:
            DataError: a pair of texts, which MarianMT does not have.
        """
        if pair is not None:
            raise DataError("texts: this tokenizer takes single texts, not pairs")
        tokens: list[str] = []
        for part in self._split.split(sequence):
            tokens += [part] if part in self._special else self._pieces(part)
        tokens += [self.symbols["end"]] if add_special_tokens else []
        unknown = self.vocabulary[self.symbols["unknown"]]
        ids = [self.vocabulary.get(token, unknown) for token in tokens]
        return Pieces(tokens, ids, [0] * len(ids))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Join the pieces of ids; an id that the vocabulary does not have is left out."""
        found, part = "", ""
        for token in (self.words[number] for number in ids if number in self.words):
            if token not in self._special:
                part += token
            elif not skip_special_tokens:
                found, part = f"{found}{part.removeprefix(SPACE)}{token} ", ""
        return (found + part.removeprefix(SPACE)).replace(SPACE, " ").strip()

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Return ids by piece."""
        return dict(self.vocabulary)

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Return the number of ids."""
        return max(self.vocabulary.values()) + 1

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a piece; None if the vocabulary lacks it."""
        return self.vocabulary.get(token)

    def id_to_token(self, number: int) -> str | None:
        """Return the piece of an id."""
        return self.words.get(number)

    def no_padding(self) -> None:
        """Do nothing: there is no padding to turn off."""

    def no_truncation(self) -> None:
        """Do nothing: texts are never truncated here."""

    def to_str(self, pretty: bool = False) -> str:
        """Return the tokenizer as JSON, for ``from_str``."""
        content = {MARK: 1, "symbols": self.symbols, "vocabulary": self.vocabulary, "pieces": json.loads(self.pieces.to_str())}
        return json.dumps(content, ensure_ascii=False, indent=2 if pretty else None)

    def save(self, path: str, pretty: bool = True) -> None:
        """Write a file for ``from_str``."""
        Path(path).write_text(self.to_str(pretty), encoding="utf-8")

    @classmethod
    def from_str(cls, text: str) -> "PieceTokenizer":
        """Return the tokenizer of ``to_str``."""
        content = json.loads(text)
        return cls(Tokenizer.from_str(json.dumps(content["pieces"])), content["vocabulary"], **content["symbols"])

    def _pieces(self, text: str) -> list[str]:
        code = LANGUAGE.match(text)
        rest = text[code.end() :] if code is not None else text
        return [*([code[0]] if code is not None else []), *self.pieces.encode(rest, add_special_tokens=False).tokens]


AnyTokenizer = Tokenizer | PieceTokenizer


def read_pieces(path: Path) -> Tokenizer:
    """Read a SentencePiece model of the kind unigram as a tokenizer whose tokens are the pieces; its ids have no meaning.

    Raises:
        WeightsError: the model is of another kind, or transformers or protobuf is missing.
    """
    proto = _model_proto(path)
    proto.ParseFromString(path.read_bytes())
    trained, cleaned = proto.trainer_spec, proto.normalizer_spec
    other = [piece.piece for piece in proto.pieces if piece.type not in KEPT]
    if trained.model_type != UNIGRAM or other or trained.treat_whitespace_as_suffix:
        detail = f"has pieces of other types: {', '.join(other[:3])}" if other else "is of another kind"
        raise WeightsError(f"{path}: {detail}; only SentencePiece models of the kind unigram with normal pieces can be read here")
    # Control pieces never stand in a text, and the first entry is the unknown one.
    kept = [(piece.piece, piece.score) for piece in proto.pieces if piece.type == NORMAL]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *kept], unk_id=0))
    steps: list[Any] = [normalizers.Precompiled(cleaned.precompiled_charsmap)] if cleaned.precompiled_charsmap else []
    steps += [normalizers.Replace(Regex(f"[ {SPACE}]+"), " "), normalizers.Strip()] if cleaned.remove_extra_whitespaces else []
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="always" if cleaned.add_dummy_prefix else "never", split=trained.split_by_whitespace
    )
    return tokenizer


def piece_model(pieces: Tokenizer) -> bytes:
    """Return the SentencePiece model of a tokenizer from ``read_pieces``.

    Raises:
        WeightsError: transformers or protobuf is missing.
    """
    content = json.loads(pieces.to_str())
    steps = content["normalizer"]["normalizers"]
    proto = _model_proto(Path("source.spm"))
    for place, (piece, score) in enumerate(content["model"]["vocab"]):
        proto.pieces.add(piece=piece, score=score, type=NORMAL if place else UNKNOWN)
    for piece in ("<s>", "</s>"):
        proto.pieces.add(piece=piece, score=0.0, type=CONTROL)
    trained, cleaned = proto.trainer_spec, proto.normalizer_spec
    trained.model_type, trained.vocab_size = UNIGRAM, len(proto.pieces)
    trained.unk_id, trained.bos_id, trained.eos_id, trained.pad_id = 0, len(proto.pieces) - 2, len(proto.pieces) - 1, -1
    trained.split_by_whitespace = content["pre_tokenizer"]["split"]
    maps = [base64.b64decode(step["precompiled_charsmap"]) for step in steps if step["type"] == "Precompiled"]
    cleaned.name, cleaned.precompiled_charsmap = "nmt_nfkc" if maps else "identity", b"".join(maps)
    cleaned.add_dummy_prefix = content["pre_tokenizer"]["prepend_scheme"] == "always"
    cleaned.remove_extra_whitespaces = any(step["type"] == "Replace" for step in steps)
    return proto.SerializeToString()


def _model_proto(path: Path) -> Any:
    try:
        from transformers.convert_slow_tokenizer import import_protobuf

        messages: Any = import_protobuf()
    except ImportError as error:
        raise WeightsError(
            f"{path}: is a SentencePiece model, which needs transformers and protobuf: zoo install transformers protobuf"
        ) from error
    return messages.ModelProto()

"""Whisper of transformers, openai-whisper and CTranslate2: a system with its decoder, else an encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from zoo.interop.base.files import CHAT, HARMLESS, IMAGES, TOKENIZERS, TRANSFORMERS, USED
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import read_library_config, read_optional
from zoo.interop.base.placing import EncoderNames, read_encoder, take_part
from zoo.interop.base.source import CT2, Source
from zoo.interop.base.source import TRANSFORMERS as DIRECTORY
from zoo.interop.whisper import encoder as whisper
from zoo.interop.whisper import system as whisper_system
from zoo.interop.whisper.generation import ENGLISH_SIZE, Told, generation_of, special_tokens
from zoo.interop.whisper.sound import refuse_other_sound
from zoo.interop.whisper.write import TARGET, whisper_export
from zoo.processors.tokenizers.whisper_tokens import SpecialIds, find_tiktoken, read_base_tokenizer, tiktoken_tokenizer
from zoo.processors.transcript import WHISPER_TIMESTAMPS
from zoo.registry import register, rows
from zoo.storage.ctranslate2 import NAME as CTRANSLATE2
from zoo.storage.hub import CONFIG
from zoo.types import Encoder

STRICT = {"pad_to": "context", "mask": False}  # as Whisper was trained: silence up to 30 s
NAMES = EncoderNames(whisper.recognises, whisper.to_zoo)


@register("format")
class Whispers(Format):
    """Encoders ``whisper``, and systems with the head ``whisper``."""

    targets = ("transformers", TARGET)
    takes = "systems of the encoder and the head 'whisper'"
    model_types = (whisper.MODEL_TYPE,)
    files = {
        **TRANSFORMERS,
        **TOKENIZERS,
        **IMAGES,
        **CHAT,
        CTRANSLATE2: USED,
        **dict.fromkeys(("normalizer.json", "vocabulary.json", "vocabulary.txt"), HARMLESS),
    }

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if whisper.recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Return a system or an encoder; without a config of transformers, sizes are read off the tensors.

        The tokenizer is the one beside the weights, or else that of an installed openai-whisper; without one only token ids are taken.
        """
        directory = source.directory or (source.file.parent if source.file is not None else None)
        config = None if directory is None else _config_of(source, directory)
        # Sizes that are no shapes (numbers of heads) stand among the tensors of a file without config.
        tensors = source.tensors if config is None else source.outline
        encoder = {"name": "whisper", **whisper.arguments(tensors, config)}
        if directory is not None:
            refuse_other_sound(directory, encoder)
        if not whisper_system.recognises(source.keys):
            return Description({"encoder": encoder, "processor": {"audio": STRICT}})
        system = whisper_system.system_config(tensors, config)
        told, head = Told.beside(directory), system["head"]
        tokenizer = None if directory is None else read_base_tokenizer(directory)
        transcript = {"tokenizer": "given", **special_tokens(head["vocab_size"], told, tokenizer)}
        left_out = _choose_heads(head, source.name, told) + _add_generation(transcript, told, head["vocab_size"])
        tokenizer = tokenizer or _published_tokenizer(head["vocab_size"], multilingual=transcript["multilingual"])
        processor = {"audio": STRICT, "transcript": transcript}
        return Description({"system": {"name": source.name, **system, "processor": processor}}, tokenizer, left_out=left_out)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part; an encoder alone takes its own half."""
        if not whisper_system.recognises(source.keys) or (not part and isinstance(into, Encoder)):
            return read_encoder(NAMES, source, "audio", part, into)
        return take_part(whisper_system.to_zoo(source.tensors), source, "" if part == "encoder" else part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return the files of transformers or openai-whisper of a system."""
        return whisper_export(model, target)


def _config_of(source: Source, directory: Path) -> dict[str, Any] | None:
    """Return the ``config.json`` of transformers beside the weights; None if there is none, or it is CTranslate2's without sizes."""
    path = directory / CONFIG
    if source.library == CT2 or not path.is_file():
        return None
    if source.library == DIRECTORY:
        return read_library_config(path)
    config = read_optional(path)
    return config if "model_type" in config else None


def _choose_heads(head: dict[str, Any], name: str, told: Told) -> tuple[str, ...]:
    """Set the heads that follow the speech, as far as the decoder has them; return the others in words.

    A distilled Whisper often keeps the list of its teacher, which has more layers.
    """
    heads = told.get("alignment_heads") or _published_heads(name, head)
    if not heads:
        return ()
    pairs = [list(pair) for pair in heads]
    own = [pair for pair in pairs if pair[0] < head["depth"] and pair[1] < head["num_heads"]]
    if own:
        head["alignment_heads"] = own
    others = [pair for pair in pairs if pair not in own]
    instead = "" if own else "; the default heads are used for the times of words"
    return (f"alignment_heads {others}, which the decoder does not have{instead}",) if others else ()


def _add_generation(transcript: dict[str, Any], told: Told, vocab_size: int) -> tuple[str, ...]:
    """Add the decoding settings to the keywords of the transcript processor; return those that are not used, in words."""
    counts = [transcript.get(key, usual) for key, usual in (("vocab_size", vocab_size), ("num_timestamps", WHISPER_TIMESTAMPS))]
    ids = SpecialIds.of(counts[0], transcript["num_languages"], counts[1])
    settings, left_out = generation_of(told, ids, vocab_size, multilingual=transcript["multilingual"])
    if settings:
        transcript["generation"] = settings
    return left_out


def _published_heads(name: str, head: Mapping[str, Any]) -> list[list[int]] | None:
    """Return the heads that follow the speech, for weights that are named as those of openai-whisper (``tiny.en.pt``)."""
    row = rows("head").get(f"whisper_{name.replace('.', '_').replace('-', '_')}_decoder")
    sizes = ("dim", "depth", "num_heads")
    return row.arguments["alignment_heads"] if row and all(row.arguments[key] == head[key] for key in sizes) else None


def _published_tokenizer(vocab_size: int, *, multilingual: bool) -> Tokenizer | None:
    """Return the tokenizer of the published models from an installed openai-whisper; None if there is none, or the model is another."""
    ranks = find_tiktoken(multilingual=multilingual) if vocab_size >= ENGLISH_SIZE else None
    return None if ranks is None else tiktoken_tokenizer(ranks)

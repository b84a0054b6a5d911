"""Encoder-decoder models of transformers as systems with the head ``seq2seq``."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.files import HARMLESS, IMAGES, TOKENIZERS, TRANSFORMERS, USED
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import image_keywords_of
from zoo.interop.base.placing import below, take_part
from zoo.interop.base.recognise import library_config
from zoo.interop.base.source import Source
from zoo.interop.seq2seq import bart, marian_words, switch, t5, trocr
from zoo.interop.seq2seq.generation import target_settings, their_settings
from zoo.interop.text_encoders.write import word_files
from zoo.processors.tokenizers.library_tokenizers import read_tokenizer
from zoo.processors.tokenizers.piece_tokenizer import AnyTokenizer, PieceTokenizer
from zoo.registry import find_part, register
from zoo.storage.hub import CONFIG
from zoo.types import Encoder, config_of, is_system, part_of

GIVEN = {"tokenizer": "given", "cleaning": "none", "lowercase": False}
T5_TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
WHISPERS = "model.encoder.conv1.weight"


@register("format")
class Seq2Seqs(Format):
    """Systems of the encoders ``seq2seq``, ``t5`` or ``vit`` and the head ``seq2seq``."""

    targets = ("transformers",)
    takes = "systems of the encoder 'seq2seq', 't5' or 'vit' and the head 'seq2seq'"
    model_types = (*bart.DEFAULTS, "mt5", switch.MODEL_TYPE, trocr.MODEL_TYPE)  # "t5" is also a model type of text encoders, which names it
    files = {
        **TRANSFORMERS,
        **TOKENIZERS,
        "generation_config.json": USED,
        **IMAGES,
        **dict.fromkeys(("source.spm", "target.spm", "target_vocab.json"), USED),
        **dict.fromkeys(("metadata.json", "benchmark_*"), HARMLESS),
    }

    def recognises(self, source: Source) -> float:
        """Go by the model type and the names of the tensors: a T5 without a decoder is a text encoder."""
        if source.model_type == "t5":
            return CONFIG_SAYS if t5.recognises(source.keys) else NO
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        if WHISPERS in source.keys:  # its blocks have BART's names
            return NO
        return KEYS_SAY if any(each.recognises(source.keys) for each in (bart, t5, trocr)) else NO

    def describe(self, source: Source) -> Description:
        """Return the system; special tokens and settings of generation come from both configs."""
        config = source.config if source.model_type == "t5" else library_config(source, self)
        assert source.directory is not None
        family = _family(str(config["model_type"]))
        given: Any = source.tensors if family in (t5, switch) else source.keys
        encoder, head = family.arguments(config, given)
        target, left = target_settings(_told(config), source.directory)
        left += switch.left_out(config) if family is switch else ()
        words, target_words = _tokenizers(source.directory, str(config["model_type"]))
        tokens = {**GIVEN, **{key: target[key] for key in ("pad_token_id", "eot_token_id")}}
        if family is trocr:
            encoder["preprocessing"] = image_keywords_of(source.directory)
            encoders, processor = {"image": encoder}, {"target_text": {**GIVEN, **target, "reads": "text"}}
        else:
            encoders, processor = {"text": encoder}, {"text": tokens, "target_text": {**GIVEN, **target}}
        system = {"name": source.name, "encoders": encoders, "head": head, "processor": processor}
        return Description({"system": system}, words, left_out=left, target_tokenizer=target_words)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part; an encoder alone takes its own half."""
        whole = _to_zoo(source)
        if isinstance(into, Encoder) and part in ("", "encoder"):
            return below(whole, f"encoders.{into.modality}")
        return take_part(whole, source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return transformers' files of a system."""
        config = config_of(model)
        if not is_system(model) or (config.get("head") or {}).get("name") != "seq2seq":
            return None
        (modality, given), *others = config["encoders"].items()
        family = {("text", "seq2seq"): bart, ("text", "t5"): t5, ("image", "vit"): trocr}.get((modality, given["name"]))
        if family is None or others:
            return None
        encoder, head = _whole("encoder", given), _whole("head", config["head"])
        if family is t5 and (encoder["num_experts"], head["num_experts"]) != (None, None):
            family = switch
        theirs: dict[str, Any] = family.config(encoder, head)
        files: dict[str, Any] = {CONFIG: theirs}
        words = part_of(model, "target_text")
        if words is not None:
            tokens, generation = their_settings(words)
            theirs |= tokens
            if family is trocr:
                theirs["decoder"] |= tokens
            files["generation_config.json"] = generation
            if words.is_fitted:
                files |= _tokenizer_files(words if modality != "text" else part_of(model, "text"), words, str(theirs["model_type"]))
        return Export(files, lambda: family.from_zoo(model.state_dict()))


def _family(model_type: str) -> Any:
    families: dict[str, Any] = {trocr.MODEL_TYPE: trocr, switch.MODEL_TYPE: switch, **dict.fromkeys(t5.MODEL_TYPES, t5)}
    return families.get(model_type, bart)


def _tokenizers(directory: Path, model_type: str) -> tuple[AnyTokenizer | None, AnyTokenizer | None]:
    """Return the tokenizers of source and target; None for the second if they are the same."""
    if model_type == marian_words.MODEL_TYPE and marian_words.recognises(directory):
        return marian_words.read(directory)
    found = read_tokenizer(directory, model_type=model_type)
    return (None if found is None else found.tokenizer), None


def _tokenizer_files(words: Any, target: Any, model_type: str) -> dict[str, Any]:
    if not isinstance(words.tokenizer, PieceTokenizer):
        return word_files(words)
    if model_type != marian_words.MODEL_TYPE:
        raise ConfigError(f"processor.text: MarianMT's tokenizer, which transformers' {model_type} does not have; give a tokenizer.json")
    return marian_words.files(words, target)


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config completed with the special tokens that its class has by default."""
    kind = str(config["model_type"])
    if kind == trocr.MODEL_TYPE:
        outer = {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}
        return {**trocr.completed(config["decoder"]), **outer}
    return {**(T5_TOKENS if _family(kind) in (t5, switch) else bart.DEFAULTS[kind]), **config}


def _to_zoo(source: Source) -> dict[str, Tensor]:
    if trocr.recognises(source.keys):
        return trocr.to_zoo(source.tensors)
    if switch.recognises(source.keys):
        return switch.to_zoo(source.tensors)
    if t5.recognises(source.keys):
        return t5.to_zoo(source.tensors)
    if not bart.recognises(source.keys):
        raise WeightsError(f"{source.origin}: lacks tensors that every encoder-decoder model has; fetch the directory again")
    kind = source.model_type
    learned = (
        bart.FORMS[kind]["positions"] == "learned" if kind in bart.FORMS else "model.encoder.layernorm_embedding.weight" in source.keys
    )
    return bart.to_zoo(source.tensors, learned=learned)


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a config, completed with the defaults."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **config}

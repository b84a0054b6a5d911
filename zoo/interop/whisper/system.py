"""A whole Whisper of transformers, openai-whisper and CTranslate2 <-> our system of the encoder and the head ``whisper``.

References: transformers 5.17 ``WhisperConfig``, ``WhisperForConditionalGeneration``; openai-whisper 20250625 ``ModelDimensions``.
``zoo.interop.whisper.names`` has the tables of both halves.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, under
from zoo.interop.base.transformers_config import count, refuse_others
from zoo.interop.whisper import encoder as whisper
from zoo.interop.whisper.names import ORIGINS, TRANSFORMERS, Origin
from zoo.layers.mlp import hidden_width

ENCODER, DECODER = "encoders.audio.", "head.decoder."
HEADS = ("dims.n_text_head", "decoder/num_heads")  # names of the number of heads in files of openai-whisper and CTranslate2
SHARED = "proj_out.weight"  # transformers' second name of the word table
DEFAULTS = {  # of WhisperConfig
    "vocab_size": 51865,
    "max_target_positions": 448,
    "decoder_layers": 4,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
    "scale_embedding": False,
    "tie_word_embeddings": True,
}
DIMENSIONS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
DIMENSIONS += ("n_vocab", "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer")


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the names of a Whisper with its decoder."""
    return _origin(set(keys)) is not None


def _origin(keys: set[str]) -> Origin | None:
    return next((origin for origin in ORIGINS.values() if origin.is_whole(keys)), None)


def _rules(origin: Origin, before: str) -> list[Rule]:
    both = under(before + origin.encoder, ENCODER, origin.encoder_rules)
    return both + under(before + origin.decoder, DECODER, origin.decoder_rules)


def to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert their state dict to that of our system.

    Raises:
        WeightsError: a tensor is unknown or missing, or the last layer is not the word table.
    """
    origin = _origin(set(tensors))
    if origin is None:
        raise WeightsError(f"whisper -> zoo: not the names of a whole Whisper of {', '.join(ORIGINS)}")
    before = origin.before_in(tensors)
    assert before is not None
    last, words = tensors.get(SHARED), tensors[before + origin.decoder + origin.embedding]
    if last is not None and not words.is_meta and not last.equal(words):
        raise WeightsError(f"{origin.name} -> zoo: {SHARED} is another table than that of the words, which no Whisper has")
    own = {name: tensor for name, tensor in tensors.items() if not origin.is_aside(name, tensor)}
    return rules.to_zoo(own, _rules(origin, before), origin=origin.name)


def from_zoo(tensors: Mapping[str, Tensor], *, origin: str = TRANSFORMERS.name) -> dict[str, Tensor]:
    """Convert the state dict of our system to the names of an origin.

    Args:
        origin: a key of ``ORIGINS``; of transformers the names are those of ``WhisperForConditionalGeneration``.

    Raises:
        WeightsError: a Whisper does not have one of the tensors.
    """
    return rules.from_zoo(tensors, _rules(ORIGINS[origin], ORIGINS[origin].before[0]), origin=origin)


def system_config(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return encoder and head of our system that has these weights.

    Args:
        config: transformers' ``config.json``; without one sizes are read off the tensors.

    Raises:
        ConfigError: ours does not have something.
        WeightsError: there is no config, and nothing tells the number of heads.
    """
    encoder = {"name": "whisper", **whisper.arguments(tensors, config)}
    head = _head_of_tensors(tensors) if config is None else _head_of_config(config)
    return {"encoders": {"audio": encoder}, "head": {"name": "whisper", **head}}


def _head_of_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    shapes = {name.removeprefix(DECODER): list(tensor.shape) for name, tensor in to_zoo(tensors).items() if name.startswith(DECODER)}
    vocab_size, dim = shapes["embedding.weight"]
    heads = next((int(tensors[name]) for name in HEADS if name in tensors), None)
    if heads is None:
        raise WeightsError("a Whisper whose number of heads nothing tells; give its directory, with config.json, or name the model")
    return {
        "vocab_size": vocab_size,
        "context_length": shapes["positions"][0],
        "dim": dim,
        "depth": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
        "num_heads": heads,
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / dim,
    }


def _head_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**whisper.DEFAULTS, **DEFAULTS, **config}
    refuse_others(whole, {"scale_embedding": (False,), "tie_word_embeddings": (True,)}, "our whisper")
    dim = count(whole, "d_model")
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": count(whole, "max_target_positions"),
        "dim": dim,
        "depth": count(whole, "decoder_layers"),
        "num_heads": count(whole, "decoder_attention_heads"),
        "mlp_ratio": count(whole, "decoder_ffn_dim") / dim,
    }


def config(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes in transformers' ``config.json`` for all keywords of ours.

    Raises:
        ConfigError: transformers' does not have something that the source has.
    """
    _refuse(encoder, head, "transformers")
    dim = head["dim"]
    return {
        "model_type": whisper.MODEL_TYPE,
        "architectures": ["WhisperForConditionalGeneration"],
        "activation_function": "gelu",
        "num_mel_bins": encoder["num_mels"],
        "max_source_positions": encoder["context_length"],
        "d_model": dim,
        "encoder_layers": encoder["depth"],
        "encoder_attention_heads": encoder["num_heads"],
        "encoder_ffn_dim": hidden_width(dim, encoder["mlp_ratio"]),
        "vocab_size": head["vocab_size"],
        "max_target_positions": head["context_length"],
        "decoder_layers": head["depth"],
        "decoder_attention_heads": head["num_heads"],
        "decoder_ffn_dim": hidden_width(dim, head["mlp_ratio"]),
        "scale_embedding": False,
        "tie_word_embeddings": True,
    }


def dimensions(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes in openai-whisper's ``ModelDimensions`` for all keywords of ours.

    Raises:
        ConfigError: openai-whisper does not have something that the source has.
    """
    _refuse(encoder, head, "openai-whisper")
    for part, words in (("encoders.audio", encoder), ("head", head)):
        if hidden_width(words["dim"], words["mlp_ratio"]) != 4 * words["dim"]:
            raise ConfigError(f"{part}.mlp_ratio: {words['mlp_ratio']}; openai-whisper has 4 alone, export to transformers")
    sizes = [encoder[key] for key in ("num_mels", "context_length", "dim", "num_heads", "depth")]
    sizes += [head[key] for key in ("vocab_size", "context_length", "dim", "num_heads", "depth")]
    return dict(zip(DIMENSIONS, sizes, strict=True))


def _refuse(encoder: Mapping[str, Any], head: Mapping[str, Any], target: str) -> None:
    if encoder["dim"] != head["dim"]:
        raise ConfigError(f"head.dim: {head['dim']}, but encoders.audio.dim is {encoder['dim']}; {target} has one width for both")
    for part, words in (("encoders.audio", encoder), ("head", head)):
        if words["eps"] != 1e-5:
            raise ConfigError(f"{part}.eps: {words['eps']}; {target} has 1e-05 alone")

"""Whisper's encoder of transformers, openai-whisper and CTranslate2 <-> our ``whisper``.

``zoo.interop.whisper.names`` has the tables. The decoder is left out; ``zoo.interop.whisper.system`` converts both.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base import rules
from zoo.interop.base.rules import under
from zoo.interop.base.transformers_config import count, refuse_others
from zoo.interop.whisper.names import ORIGINS, TRANSFORMERS, Origin

ORIGIN = "whisper"
CLASSIFIER = ()  # an encoder has none; the decoder is left out without being named
MODEL_TYPE = "whisper"
HEADS = ("dims.n_audio_head", "encoder/num_heads")  # names of the number of heads in files of openai-whisper and CTranslate2
DEFAULTS = {  # of WhisperConfig
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "activation_function": "gelu",
}


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a Whisper, whole or the encoder of one."""
    return origin_of(keys) is not None


def origin_of(keys: Iterable[str]) -> Origin | None:
    """Return the library whose names these are; None if it is none of the three."""
    keys = set(keys)
    return next((origin for origin in ORIGINS.values() if origin.before_in(keys) is not None), None)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert a Whisper of any origin to the state dict of our encoder; its decoder is left out.

    Args:
        drop: more names to leave out with all below them.

    Raises:
        WeightsError: a tensor is unknown or missing.
    """
    origin = origin_of(tensors)
    if origin is None:
        raise WeightsError(f"whisper -> zoo: not the names of a Whisper of {', '.join(ORIGINS)}")
    before = origin.before_in(tensors)
    decoder = (f"{before}{origin.decoder}", origin.decoder)
    own = {name: tensor for name, tensor in tensors.items() if not (name.startswith(decoder) or origin.is_aside(name, tensor))}
    return rules.to_zoo(own, under(f"{before}{origin.encoder}", "", origin.encoder_rules), origin=origin.name, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor], *, origin: str = TRANSFORMERS.name, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our encoder to the names of an origin.

    Args:
        origin: a key of ``ORIGINS``.
        prefix: before each name: ``model.`` for ``WhisperForConditionalGeneration``.

    Raises:
        WeightsError: a Whisper does not have one of the tensors.
    """
    return rules.from_zoo(tensors, under(prefix + ORIGINS[origin].encoder, "", ORIGINS[origin].encoder_rules), origin=origin)


def arguments(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the keywords of our ``whisper``.

    Args:
        config: transformers' ``config.json``; without one sizes are read off the tensors.

    Raises:
        ConfigError: our encoder does not have something.
        WeightsError: the tensors are no Whisper's, or there is no config and nothing tells the number of heads.
    """
    if config is not None:
        return _arguments_of_config(config)
    shapes = {name: list(tensor.shape) for name, tensor in to_zoo(tensors).items()}
    dim, num_mels, _ = shapes["conv1.weight"]
    heads = next((int(tensors[name]) for name in HEADS if name in tensors), None)
    if heads is None:
        raise WeightsError("a Whisper whose number of heads nothing tells; give its directory, with config.json, or name the model")
    return {
        "num_mels": num_mels,
        "context_length": shapes["positions"][0],
        "dim": dim,
        "depth": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
        "num_heads": heads,
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / dim,
    }


def _arguments_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**DEFAULTS, **config}
    if whole.get("model_type") != MODEL_TYPE:
        raise ConfigError(f"model_type: got {whole.get('model_type')!r}; allowed is {MODEL_TYPE!r}")
    refuse_others(whole, {"activation_function": ("gelu",)}, "our whisper")
    dim = count(whole, "d_model")
    return {
        "num_mels": count(whole, "num_mel_bins"),
        "context_length": count(whole, "max_source_positions"),
        "dim": dim,
        "depth": count(whole, "encoder_layers"),
        "num_heads": count(whole, "encoder_attention_heads"),
        "mlp_ratio": count(whole, "encoder_ffn_dim") / dim,
    }

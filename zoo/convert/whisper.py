"""Whisper's encoder of transformers, openai-whisper and CTranslate2 <-> our ``whisper``.

References: transformers 5.17 ``modeling_whisper.py``; openai-whisper 20250625 ``model.py``, whose files hold ``dims`` beside the state
dict; CTranslate2 ``whisper_spec.py``, as faster-whisper has it. Each origin has a table for its encoder. The decoder and what belongs
to it have no place in an encoder, and are left out by name.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.convert import rules
from zoo.convert.rules import Rule, joined, named, under
from zoo.convert.transformers_vision import count, refuse_others
from zoo.errors import ConfigError, WeightsError

ORIGIN = "whisper"
CLASSIFIER = ()  # an encoder has none; the decoder is no classifier, and is left out without being asked for
MODEL_TYPE = "whisper"
HEADS = ("dims.n_audio_head", "encoder/num_heads")  # where a file of openai-whisper or CTranslate2 tells them
DEFAULTS = {  # of WhisperConfig
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "activation_function": "gelu",
}


@dataclass(frozen=True)
class Origin:
    """How one library writes its tensors down.

    Attributes:
        known_by: names that tell its tensors from others', behind ``encoder`` and one of ``before``.
        before: what its models have before the names.
        encoder: what the encoder's names begin with.
        others: what other names begin with, that belong to no encoder.
        rules: theirs to ours.
    """

    name: str
    known_by: tuple[str, ...]
    before: tuple[str, ...]
    encoder: str
    others: tuple[str, ...]
    rules: Sequence[Rule]

    def before_in(self, keys: Collection[str]) -> str | None:
        """What stands before the names; None where they are of another origin."""
        return next((b for b in self.before if all(b + self.encoder + name in keys for name in self.known_by)), None)


def _without_key_bias(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    query, key, value = tensors[0].chunk(3)
    if key.any():
        raise WeightsError("CTranslate2 -> zoo: keys have a bias, which no Whisper has")
    return [torch.cat([query, value])]


def _with_key_bias(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    query, value = tensors[0].chunk(2)
    return [torch.cat([query, torch.zeros_like(query), value])]


def _norm(theirs: str, ours: str) -> list[Rule]:
    return named({f"{theirs}/gamma": f"{ours}.weight", f"{theirs}/beta": f"{ours}.bias"})


_CONVOLUTIONS = named({"conv1.{w}": "conv1.{w}", "conv2.{w}": "conv2.{w}"})
TRANSFORMERS = Origin(
    name="transformers",
    known_by=("conv1.weight", "layers.0.self_attn.k_proj.weight"),
    before=("model.", ""),
    encoder="encoder.",
    others=("decoder.", "proj_out."),
    rules=[
        *_CONVOLUTIONS,
        *named({"embed_positions.weight": "positions", "layer_norm.{w}": "norm.{w}"}),
        *under(
            "layers.{i}.",
            "blocks.{i}.",
            [
                joined([f"self_attn.{part}_proj.weight" for part in "qkv"], "attention.qkv.weight"),
                joined([f"self_attn.{part}_proj.bias" for part in "qv"], "attention.qkv.bias"),
                *named(
                    {
                        "self_attn.out_proj.{w}": "attention.out.{w}",
                        "self_attn_layer_norm.{w}": "norm1.{w}",
                        "fc1.{w}": "mlp.fc1.{w}",
                        "fc2.{w}": "mlp.fc2.{w}",
                        "final_layer_norm.{w}": "norm2.{w}",
                    }
                ),
            ],
        ),
    ],
)
OPENAI = Origin(
    name="openai-whisper",
    known_by=("conv1.weight", "blocks.0.attn.key.weight"),
    before=("",),
    encoder="encoder.",
    others=("decoder.", "dims."),
    rules=[
        *_CONVOLUTIONS,
        *named({"positional_embedding": "positions", "ln_post.{w}": "norm.{w}"}),
        *under(
            "blocks.{i}.",
            "blocks.{i}.",
            [
                joined([f"attn.{part}.weight" for part in ("query", "key", "value")], "attention.qkv.weight"),
                joined([f"attn.{part}.bias" for part in ("query", "value")], "attention.qkv.bias"),
                *named(
                    {
                        "attn.out.{w}": "attention.out.{w}",
                        "attn_ln.{w}": "norm1.{w}",
                        "mlp.0.{w}": "mlp.fc1.{w}",
                        "mlp.2.{w}": "mlp.fc2.{w}",
                        "mlp_ln.{w}": "norm2.{w}",
                    }
                ),
            ],
        ),
    ],
)
CTRANSLATE2 = Origin(
    name="CTranslate2",
    known_by=("conv1/weight", "layer_0/self_attention/linear_0/weight"),
    before=("",),
    encoder="encoder/",
    others=("decoder/", "encoder/num_heads"),
    rules=[
        *named({"conv1/{w}": "conv1.{w}", "conv2/{w}": "conv2.{w}", "position_encodings/encodings": "positions"}),
        *_norm("layer_norm", "norm"),
        *under(
            "layer_{i}/",
            "blocks.{i}.",
            [
                *named({"self_attention/linear_0/weight": "attention.qkv.weight"}),
                Rule(("self_attention/linear_0/bias",), ("attention.qkv.bias",), _without_key_bias, _with_key_bias),
                *named(
                    {
                        "self_attention/linear_1/{w}": "attention.out.{w}",
                        "ffn/linear_0/{w}": "mlp.fc1.{w}",
                        "ffn/linear_1/{w}": "mlp.fc2.{w}",
                    }
                ),
                *_norm("self_attention/layer_norm", "norm1"),
                *_norm("ffn/layer_norm", "norm2"),
            ],
        ),
    ],
)
ORIGINS = {origin.name: origin for origin in (TRANSFORMERS, OPENAI, CTRANSLATE2)}


def recognises(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a Whisper, whole or the encoder of one."""
    return origin_of(keys) is not None


def origin_of(keys: Iterable[str]) -> Origin | None:
    """Whose names these are."""
    keys = set(keys)
    return next((origin for origin in ORIGINS.values() if origin.before_in(keys) is not None), None)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """A Whisper of any origin to the state dict of our encoder; its decoder is left out.

    Args:
        drop: more names to leave out with all below them.

    Raises:
        WeightsError: tensors that a Whisper does not have, or missing ones.
    """
    origin = origin_of(tensors)
    if origin is None:
        raise WeightsError(f"whisper -> zoo: not the names of a Whisper of {', '.join(ORIGINS)}")
    before = origin.before_in(tensors)
    left_out = tuple(f"{before}{other}" for other in origin.others) + origin.others  # proj_out stands beside the model
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    return rules.to_zoo(own, under(f"{before}{origin.encoder}", "", origin.rules), origin=origin.name, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor], *, origin: str = TRANSFORMERS.name, prefix: str = "") -> dict[str, Tensor]:
    """State dict of our encoder to the names of an origin.

    Args:
        origin: a key of ``ORIGINS``.
        prefix: before each name: ``model.`` for ``WhisperForConditionalGeneration``.

    Raises:
        WeightsError: tensors that a Whisper does not have.
    """
    return rules.from_zoo(tensors, under(prefix + ORIGINS[origin].encoder, "", ORIGINS[origin].rules), origin=origin)


def arguments(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keywords of our ``whisper``.

    Args:
        config: transformers' ``config.json``; without one sizes are read off the tensors.

    Raises:
        ConfigError: what our encoder does not have.
        WeightsError: not a Whisper, or without a config and nothing that tells how many heads it has.
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

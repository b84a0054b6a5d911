"""Tables of the names of a Whisper's tensors in transformers, openai-whisper, CTranslate2 and zoo: encoder and decoder.

References: transformers 5.17 ``modeling_whisper.py``; openai-whisper 20250625 ``model.py``, whose files hold ``dims`` beside the state
dict; CTranslate2 ``whisper_spec.py`` and ``transformer_spec.py``, as faster-whisper has them. Each origin has a table for each half.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.interop.base.rules import Rule, joined, named, takes, under

CT2_NAME = "CTranslate2"
# Settings of CTranslate2 by name, with the values that a Whisper has; none: any. Not listed: 0. Activation 3 is GELU.
SETTINGS = {
    **dict.fromkeys(("num_heads", "num_heads_kv", "head_dim", "alignment_heads", "alignment_layer"), ()),
    **{"activation": (3,), "pre_norm": (1,)},
}


@dataclass(frozen=True)
class Origin:
    """Names that one library gives to the tensors.

    Attributes:
        encoder: prefix of the encoder's names.
        decoder: prefix of the decoder's names.
        known_by: names by which its tensors are recognised, after ``encoder`` and one of ``before``.
        embedding: the decoder's word table, after ``decoder``; an encoder alone does not have it.
        before: possible prefixes of all names.
        aside: prefixes of entries that are no weights of ours: sizes, and tables that are there twice.
        encoder_rules: of the encoder, theirs to ours.
        decoder_rules: of the decoder, theirs to ours.
    """

    name: str
    encoder: str
    decoder: str
    known_by: tuple[str, ...]
    embedding: str
    before: tuple[str, ...]
    aside: tuple[str, ...]
    encoder_rules: Sequence[Rule]
    decoder_rules: Sequence[Rule]

    def is_aside(self, name: str, tensor: Tensor) -> bool:
        """Return True for an entry that is no weight of ours; CTranslate2 keeps its settings as scalars beside the weights.

        Its versions add settings and tables, each of them off in a Whisper. So zeros that no rule takes are harmless whatever their name
        is, and a scalar of another value has to be among ``SETTINGS``.

        Raises:
            WeightsError: a setting that no Whisper has is on.
        """
        if self.name != CT2_NAME or name.startswith(self.aside):
            return name.startswith(self.aside)
        if tensor.ndim:
            return not tensor.is_meta and not tensor.any() and not self._takes(name)
        _refuse_setting(name, tensor)
        return True

    def _takes(self, name: str) -> bool:
        halves = ((self.encoder, self.encoder_rules), (self.decoder, self.decoder_rules))
        return any(name.startswith(half) and takes(rules, name.removeprefix(half)) for half, rules in halves)

    def before_in(self, keys: Collection[str]) -> str | None:
        """Return the prefix of all names; None if they are of another library."""
        return next((b for b in self.before if all(b + self.encoder + name in keys for name in self.known_by)), None)

    def is_whole(self, keys: Collection[str]) -> bool:
        """Return True if there is a decoder too."""
        before = self.before_in(keys)
        return before is not None and before + self.decoder + self.embedding in keys


def _refuse_setting(name: str, value: Tensor) -> None:
    """Raise WeightsError for a setting of CTranslate2 that is on and that no Whisper has."""
    key = name.rpartition("/")[2]
    allowed = SETTINGS.get(key, (0,))
    if allowed and not value.is_meta and float(value) not in allowed:
        state = "is on, which no Whisper has" if allowed == (0,) else f"is not {allowed[0]}, which every Whisper has"
        raise WeightsError(f"{CT2_NAME} -> zoo: {name} {state} (it is {float(value):g}); convert the model again")


def _without_key_bias(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    query, key, value = tensors[0].chunk(3)
    return [torch.cat([query, _value_bias(torch.cat([key, value]))])]


def _with_key_bias(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    query, value = tensors[0].chunk(2)
    return [torch.cat([query, torch.zeros_like(query), value])]


def _value_bias(bias: Tensor) -> Tensor:
    key, value = bias.chunk(2)
    if not key.is_meta and key.any():
        raise WeightsError("CTranslate2 -> zoo: keys have a bias, which no Whisper has")
    return value


def _norm(theirs: str, ours: str) -> list[Rule]:
    return named({f"{theirs}/gamma": f"{ours}.weight", f"{theirs}/beta": f"{ours}.bias"})


def _attention_to_self(parts: Sequence[str]) -> list[Rule]:
    """Return the rules that join queries, keys (which have no bias) and values."""
    query, key, value = parts
    return [
        joined([f"{query}.weight", f"{key}.weight", f"{value}.weight"], "attention.qkv.weight"),
        joined([f"{query}.bias", f"{value}.bias"], "attention.qkv.bias"),
    ]


def _attention_to_recording(parts: Sequence[str]) -> list[Rule]:
    query, key, value = parts
    return [
        *named({f"{query}.{{w}}": "cross.query.{w}", f"{value}.bias": "cross.key_value.bias"}),
        joined([f"{key}.weight", f"{value}.weight"], "cross.key_value.weight"),
    ]


_CONVOLUTIONS = named({"conv1.{w}": "conv1.{w}", "conv2.{w}": "conv2.{w}"})
_TRANSFORMERS_BLOCK = [
    *_attention_to_self([f"self_attn.{part}_proj" for part in "qkv"]),
    *named(
        {
            "self_attn.out_proj.{w}": "attention.out.{w}",
            "self_attn_layer_norm.{w}": "norm1.{w}",
            "fc1.{w}": "mlp.fc1.{w}",
            "fc2.{w}": "mlp.fc2.{w}",
        }
    ),
]
TRANSFORMERS = Origin(
    name="transformers",
    encoder="encoder.",
    decoder="decoder.",
    known_by=("conv1.weight", "layers.0.self_attn.k_proj.weight"),
    embedding="embed_tokens.weight",
    before=("model.", ""),
    aside=("proj_out.",),
    encoder_rules=[
        *_CONVOLUTIONS,
        *named({"embed_positions.weight": "positions", "layer_norm.{w}": "norm.{w}"}),
        *under("layers.{i}.", "blocks.{i}.", [*_TRANSFORMERS_BLOCK, *named({"final_layer_norm.{w}": "norm2.{w}"})]),
    ],
    decoder_rules=[
        *named({"embed_tokens.weight": "embedding.weight", "embed_positions.weight": "positions", "layer_norm.{w}": "norm.{w}"}),
        *under(
            "layers.{i}.",
            "blocks.{i}.",
            [
                *_TRANSFORMERS_BLOCK,
                *_attention_to_recording([f"encoder_attn.{part}_proj" for part in "qkv"]),
                *named(
                    {
                        "encoder_attn.out_proj.{w}": "cross.out.{w}",
                        "encoder_attn_layer_norm.{w}": "norm2.{w}",
                        "final_layer_norm.{w}": "norm3.{w}",
                    }
                ),
            ],
        ),
    ],
)
_OPENAI_BLOCK = [
    *_attention_to_self(["attn.query", "attn.key", "attn.value"]),
    *named({"attn.out.{w}": "attention.out.{w}", "attn_ln.{w}": "norm1.{w}", "mlp.0.{w}": "mlp.fc1.{w}", "mlp.2.{w}": "mlp.fc2.{w}"}),
]
OPENAI = Origin(
    name="openai-whisper",
    encoder="encoder.",
    decoder="decoder.",
    known_by=("conv1.weight", "blocks.0.attn.key.weight"),
    embedding="token_embedding.weight",
    before=("",),
    aside=("dims.",),
    encoder_rules=[
        *_CONVOLUTIONS,
        *named({"positional_embedding": "positions", "ln_post.{w}": "norm.{w}"}),
        *under("blocks.{i}.", "blocks.{i}.", [*_OPENAI_BLOCK, *named({"mlp_ln.{w}": "norm2.{w}"})]),
    ],
    decoder_rules=[
        *named({"token_embedding.weight": "embedding.weight", "positional_embedding": "positions", "ln.{w}": "norm.{w}"}),
        *under(
            "blocks.{i}.",
            "blocks.{i}.",
            [
                *_OPENAI_BLOCK,
                *_attention_to_recording(["cross_attn.query", "cross_attn.key", "cross_attn.value"]),
                *named({"cross_attn.out.{w}": "cross.out.{w}", "cross_attn_ln.{w}": "norm2.{w}", "mlp_ln.{w}": "norm3.{w}"}),
            ],
        ),
    ],
)
_CTRANSLATE2_BLOCK = [
    *named({"self_attention/linear_0/weight": "attention.qkv.weight"}),
    Rule(("self_attention/linear_0/bias",), ("attention.qkv.bias",), _without_key_bias, _with_key_bias),
    *named({"self_attention/linear_1/{w}": "attention.out.{w}", "ffn/linear_0/{w}": "mlp.fc1.{w}", "ffn/linear_1/{w}": "mlp.fc2.{w}"}),
    *_norm("self_attention/layer_norm", "norm1"),
]
CTRANSLATE2 = Origin(
    name=CT2_NAME,
    encoder="encoder/",
    decoder="decoder/",
    known_by=("conv1/weight", "layer_0/self_attention/linear_0/weight"),
    embedding="embeddings/weight",
    before=("",),
    aside=("decoder/alignment_",),
    encoder_rules=[
        *named({"conv1/{w}": "conv1.{w}", "conv2/{w}": "conv2.{w}", "position_encodings/encodings": "positions"}),
        *_norm("layer_norm", "norm"),
        *under("layer_{i}/", "blocks.{i}.", [*_CTRANSLATE2_BLOCK, *_norm("ffn/layer_norm", "norm2")]),
    ],
    decoder_rules=[
        *named({"embeddings/weight": "embedding.weight", "position_encodings/encodings": "positions"}),
        *_norm("layer_norm", "norm"),
        *under(
            "layer_{i}/",
            "blocks.{i}.",
            [
                *_CTRANSLATE2_BLOCK,
                *named(
                    {
                        "attention/linear_0/{w}": "cross.query.{w}",
                        "attention/linear_1/weight": "cross.key_value.weight",
                        "attention/linear_2/{w}": "cross.out.{w}",
                    }
                ),
                Rule(
                    ("attention/linear_1/bias",),
                    ("cross.key_value.bias",),
                    lambda t: [_value_bias(t[0])],
                    lambda t: [torch.cat([torch.zeros_like(t[0]), t[0]])],
                ),
                *_norm("attention/layer_norm", "norm2"),
                *_norm("ffn/layer_norm", "norm3"),
            ],
        ),
    ],
)
ORIGINS = {origin.name: origin for origin in (TRANSFORMERS, OPENAI, CTRANSLATE2)}

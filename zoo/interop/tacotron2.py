"""Tacotron 2 of torchaudio (``torchaudio.models.Tacotron2``) and of NVIDIA <-> our system of the encoder and the head ``tacotron2``.

References: torchaudio 2.11 ``models/tacotron2.py``; NVIDIA/tacotron2 ``model.py``, whose names have ``.conv`` and ``.linear_layer`` in
them and are read, not written. The weights tell all sizes; they do not tell dropout and the settings of the spectrograms.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base import rules
from zoo.interop.base.format import KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.placing import take_part
from zoo.interop.base.rules import Rule, named
from zoo.interop.base.source import Source
from zoo.registry import find_part, register
from zoo.types import config_of, is_system

ORIGIN = "torchaudio"
NVIDIA = (".conv.", ".linear_layer.")
FAMILY = "tacotron2"
CONTEXT_LENGTH = 512  # characters at once; nothing in the model depends on it
SYMBOLS = {38: "characters", 148: "nvidia_characters"}
CHANGED = ("running_mean", "running_var", "num_batches_tracked")


def _two_biases(theirs: str, ours: str) -> list[Rule]:
    """Return the rules that turn an LSTM cell into an LSTM of one layer."""
    return named({f"{theirs}.{kind}": f"{ours}.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})


def _convolutions(theirs: str, ours: str) -> list[Rule]:
    norm = ("weight", "bias", *CHANGED)
    return named({f"{theirs}.{{i}}.0.{{w}}": f"{ours}.{{i}}.conv.{{w}}"}) + named(
        {f"{theirs}.{{i}}.1.{name}": f"{ours}.{{i}}.norm.{name}" for name in norm}
    )


RULES = [
    *named({"embedding.weight": "encoders.text.embedding.weight"}),
    *_convolutions("encoder.convolutions", "encoders.text.convolutions"),
    *named(
        {
            f"encoder.lstm.{kind}_l0{way}": f"encoders.text.lstm.rnn.{kind}_l0{way}"
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            for way in ("", "_reverse")
        }
    ),
    *named({"decoder.prenet.layers.{i}.weight": "head.decoder.prenet.layers.{i}.weight"}),
    *_two_biases("decoder.attention_rnn", "head.decoder.attention_rnn"),
    *_two_biases("decoder.decoder_rnn", "head.decoder.decoder_rnn"),
    *named(
        {
            "decoder.attention_layer.query_layer.weight": "head.decoder.attention.query.weight",
            "decoder.attention_layer.memory_layer.weight": "head.decoder.attention.memory.weight",
            "decoder.attention_layer.v.weight": "head.decoder.attention.v.weight",
            "decoder.attention_layer.location_layer.location_conv.weight": "head.decoder.attention.location_conv.weight",
            "decoder.attention_layer.location_layer.location_dense.weight": "head.decoder.attention.location_dense.weight",
            "decoder.linear_projection.{w}": "head.decoder.projection.{w}",
            "decoder.gate_layer.{w}": "head.decoder.gate.{w}",
        }
    ),
    *_convolutions("postnet.convolutions", "head.postnet"),
]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the names of a Tacotron 2, in either spelling."""
    wanted = {"decoder.attention_layer.location_layer.location_conv.weight", "decoder.gate_layer.weight", "embedding.weight"}
    return wanted <= set(map(_plain, keys))


def _plain(name: str) -> str:
    """Return NVIDIA's name in torchaudio's spelling."""
    for word in NVIDIA:
        name = name.replace(word, ".")
    return name


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert their state dict to that of our system.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    return rules.to_zoo({_plain(name): tensor for name, tensor in tensors.items()}, RULES, origin=ORIGIN, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our system to torchaudio's."""
    return rules.from_zoo({name: tensor for name, tensor in tensors.items() if name != "head.steps_done"}, RULES, origin=ORIGIN)


def system_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the system that has these weights: sizes from shapes, symbols from their number, NVIDIA's spectrograms.

    Raises:
        WeightsError: the tensors do not have the shapes of a Tacotron 2.
    """
    shapes = {_plain(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        vocab_size, dim = shapes["embedding.weight"]
        prenet_dim, num_mels = shapes["decoder.prenet.layers.0.weight"]
        filters, _, location_kernel = shapes["decoder.attention_layer.location_layer.location_conv.weight"]
        postnet_dim, _, postnet_kernel = shapes["postnet.convolutions.0.0.weight"]
        gates, rnn_dim = shapes["decoder.attention_rnn.weight_hh"]
        kernel = shapes["encoder.convolutions.0.0.weight"][2]
        attention_dim = shapes["decoder.attention_layer.query_layer.weight"][0]
        second_dim = shapes["decoder.decoder_rnn.weight_hh"][1]
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{ORIGIN}: not the weights of a Tacotron 2 ({error}); download them again") from error
    if second_dim != rnn_dim:
        raise ConfigError(f"rnn_dim: the two LSTMs are {rnn_dim} and {second_dim} wide; ours has one width for both")
    if shapes["decoder.linear_projection.weight"][0] != num_mels:
        raise ConfigError("reduction: several frames a step, all of which are fed back; ours feeds back the last")
    encoder = {"name": FAMILY, "vocab_size": vocab_size, "context_length": CONTEXT_LENGTH, "dim": dim}
    encoder |= {"depth": _depth(shapes, "encoder"), "kernel": kernel}
    head = {
        "name": FAMILY,
        "num_mels": num_mels,
        "prenet_dim": prenet_dim,
        "rnn_dim": rnn_dim,
        "attention_dim": attention_dim,
        "location_filters": filters,
        "location_kernel": location_kernel,
        "postnet_dim": postnet_dim,
        "postnet_depth": _depth(shapes, "postnet"),
        "postnet_kernel": postnet_kernel,
    }
    text = {"tokenizer": SYMBOLS.get(vocab_size, "given"), "cleaning": "speech"}
    sound = {"num_mels": num_mels}
    return {"name": FAMILY, "encoders": {"text": encoder}, "head": head, "processor": {"text": text, "speech": sound}}


def _depth(shapes: Mapping[str, Any], part: str) -> int:
    return sum(name.startswith(f"{part}.convolutions.") and name.endswith(".0.weight") for name in shapes)


def keywords(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor keywords of ``torchaudio.models.Tacotron2`` for all keywords of ours.

    Raises:
        ConfigError: theirs does not have something that ours has; the message names the key of the system.
    """
    refusals = (
        ("encoders.text.name", encoder["name"] != FAMILY, encoder["name"], FAMILY),
        ("head.reduction", head["reduction"] != 1, head["reduction"], 1),
        ("head.num_speakers", head["num_speakers"] != 0, head["num_speakers"], 0),
        ("head.prenet_dropout", head["prenet_dropout"] != 0.5, head["prenet_dropout"], 0.5),
    )
    for key, wrong, value, allowed in refusals:
        if wrong:
            raise ConfigError(f"{key}: {value!r} is in no Tacotron2 of torchaudio; allowed is {allowed!r}. Save it with zoo.save")
    return {
        "n_mels": head["num_mels"],
        "n_symbol": encoder["vocab_size"],
        "symbol_embedding_dim": encoder["dim"],
        "encoder_embedding_dim": encoder["dim"],
        "encoder_n_convolution": encoder["depth"],
        "encoder_kernel_size": encoder["kernel"],
        "decoder_rnn_dim": head["rnn_dim"],
        "attention_rnn_dim": head["rnn_dim"],
        "decoder_dropout": head["hidden_dropout"],
        "attention_dropout": head["hidden_dropout"],
        "attention_hidden_dim": head["attention_dim"],
        "attention_location_n_filter": head["location_filters"],
        "attention_location_kernel_size": head["location_kernel"],
        "prenet_dim": head["prenet_dim"],
        "postnet_n_convolution": head["postnet_depth"],
        "postnet_kernel_size": head["postnet_kernel"],
        "postnet_embedding_dim": head["postnet_dim"],
    }


TARGET = "torchaudio"
KEYWORDS_FILE = "tacotron2.json"


@register("format")
class Tacotron2Models(Format):
    """Systems of the encoder and the head ``tacotron2``, in files that hold weights alone."""

    targets = (TARGET,)
    takes = "systems with the head 'tacotron2'"

    def recognises(self, source: Source) -> float:
        """Go by the names of the tensors."""
        return KEYS_SAY if recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Return the system that has these shapes; nothing tells how texts become symbols, so NVIDIA's symbols are taken."""
        return Description({"system": system_config(source.outline)}, tells_processing=False)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part."""
        return take_part(to_zoo(source.tensors), source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return ``model.safetensors`` with torchaudio's names, and the constructor's keywords in ``tacotron2.json``.

        ``model = torchaudio.models.Tacotron2(**json.load(open("DIR/tacotron2.json")))``, then ``model.load_state_dict(
        safetensors.torch.load_file("DIR/model.safetensors"))``. The processing of texts and sound has no place in the files.
        """
        config: Any = config_of(model)
        if not is_system(model) or config["head"].get("name") != FAMILY:
            return None
        whole = (_whole(kind, part) for kind, part in (("encoder", config["encoders"]["text"]), ("head", config["head"])))
        return Export({KEYWORDS_FILE: keywords(*whole)}, lambda: from_zoo(model.state_dict()))


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a config, completed with the defaults."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **config}

"""Published weights of RWKV-7 (``rwkv7-*.pth``) <-> our ``rwkv7``.

Reference: BlinkDL's package ``rwkv`` 0.8, class ``RWKV_x070``. Its files hold weights alone, but their shapes tell every size except the
length of the training texts. Vectors there may have leading axes of length one. The first layer may hold the thin matrices of the value,
which nothing reads. The tokenizer of the published models ("World") is no file of the ``tokenizers`` library and is not read.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base import rules
from zoo.interop.base.format import KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.placing import LANGUAGE, take_part
from zoo.interop.base.rules import Rule, named
from zoo.interop.base.source import Source
from zoo.registry import register
from zoo.types import config_of, is_system

ORIGIN = "rwkv"
UNUSED = tuple(f"blocks.0.att.v{number}" for number in range(3))
CONTEXT_LENGTH = 4096  # of most training; nothing in the file says it, and no weight depends on it
BLOCK = "blocks.{i}."
SHIFTED = [f"{BLOCK}att.x_{word}" for word in "rwkvag"]
THIN = {"w": "decay", "a": "rate", "v": "mix_value"}  # their letter: our module, each with an offset and two matrices
PARTS = ("offset", "down", "up")  # numbers 0, 1, 2 in their names
VECTORS = re.compile(r"blocks\.\d+\.(att\.(x_\w|[wav]0|k_k|k_a)|ffn\.x_k)")
RULES = [
    *named(
        {
            "emb.weight": "embedding.weight",
            "blocks.0.ln0.{w}": "embedding_norm.{w}",
            "ln_out.{w}": "norm.{w}",
            "head.weight": "lm_head.weight",
            f"{BLOCK}ln1.{{w}}": f"{BLOCK}norm1.{{w}}",
            f"{BLOCK}ln2.{{w}}": f"{BLOCK}norm2.{{w}}",
            f"{BLOCK}att.ln_x.{{w}}": f"{BLOCK}time.norm.{{w}}",
            **{f"{BLOCK}att.{letter}{n}": f"{BLOCK}time.{ours}.{part}" for letter, ours in THIN.items() for n, part in enumerate(PARTS)},
            **{f"{BLOCK}att.g{n}": f"{BLOCK}time.gate.{PARTS[n]}" for n in (1, 2)},
            f"{BLOCK}att.k_k": f"{BLOCK}time.key_scale",
            f"{BLOCK}att.k_a": f"{BLOCK}time.key_rate",
            f"{BLOCK}att.r_k": f"{BLOCK}time.bonus",
            **{f"{BLOCK}att.{word}.weight": f"{BLOCK}time.{word}.weight" for word in ("receptance", "key", "value")},
            f"{BLOCK}att.output.weight": f"{BLOCK}time.out.weight",
            f"{BLOCK}ffn.x_k": f"{BLOCK}channel.shift",
            f"{BLOCK}ffn.key.weight": f"{BLOCK}channel.key.weight",
            f"{BLOCK}ffn.value.weight": f"{BLOCK}channel.value.weight",
        }
    ),
    Rule(tuple(SHIFTED), (f"{BLOCK}time.shifts",), lambda t: [torch.stack(list(t))], lambda t: [row.contiguous() for row in t[0]]),
]  # fmt: skip


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a published RWKV-7."""
    return {"emb.weight", "blocks.0.ln0.weight", "blocks.0.att.r_k", "blocks.0.att.k_a"} <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a published state dict to that of our ``rwkv7``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    plain = {name: tensor.flatten() if VECTORS.fullmatch(name) else tensor for name, tensor in tensors.items()}
    return rules.to_zoo(plain, RULES, origin=ORIGIN, drop=UNUSED)


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``to_zoo``; vectors have one axis, which the package reads too."""
    return rules.from_zoo(tensors, RULES, origin=ORIGIN)


def arguments(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of our ``rwkv7`` that the shapes of a file's tensors tell.

    Raises:
        WeightsError: a tensor is missing.
    """
    try:
        vocab_size, dim = shapes["emb.weight"]
        ranks = {ours: shapes[f"blocks.0.att.{letter}1"][-1] for letter, ours in (("w", "decay"), ("a", "rate"), ("g", "gate"))}
        depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
        value = shapes["blocks.1.att.v1"][-1] if depth > 1 else 32
        return {
            **{"vocab_size": vocab_size, "context_length": CONTEXT_LENGTH, "dim": dim, "depth": depth},
            **{"head_dim": shapes["blocks.0.att.r_k"][-1], "hidden_dim": shapes["blocks.0.ffn.key.weight"][0], "value_rank": value},
            **{f"{name}_rank": rank for name, rank in ranks.items()},
        }
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{ORIGIN}: no shape of {error} that an RWKV-7 has; download the file again") from error


@register("format")
class Rwkv7Files(Format):
    """Language models ``rwkv7`` in the files of their authors."""

    targets = ("rwkv",)
    takes = "language models 'rwkv7', alone or in a system without encoders"

    def recognises(self, source: Source) -> float:
        """Go by the names of the tensors."""
        return KEYS_SAY if recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Return a system without encoders and without tokenizer."""
        language = {"name": "rwkv7", **arguments(source.shapes)}
        conversation = {"tokenizer": "given", "template": "none"}
        name = source.name
        system = {
            "name": name,
            "encoders": {},
            "head": {"name": "llava", "language": language},
            "processor": {"conversation": conversation},
        }
        return Description({"system": system}, left_out=("the tokenizer 'World', which no file of the weights holds",))

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the language model."""
        return take_part({f"{LANGUAGE}.{name}": tensor for name, tensor in to_zoo(source.tensors).items()}, source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return the published names of a language model."""
        config = config_of(model)
        own = (config.get("head") or {}).get("language") if is_system(model) else config.get("language")
        if not own or own.get("name") != "rwkv7":
            return None
        if is_system(model) and config.get("encoders"):
            raise ConfigError("export: files of RWKV hold a language model alone; export head.language, or use zoo.save")
        inner: Any = model.get_submodule("head.language") if is_system(model) else model
        return Export(
            {}, lambda: from_zoo(inner.state_dict()), weights="model.pth", save=lambda tensors, path: torch.save(dict(tensors), path)
        )

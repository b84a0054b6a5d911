"""transformers' ``RwkvForCausalLM`` and the published weights of RWKV-4 (``RWKV-4-*.pth``) <-> our ``rwkv4``.

References: transformers 5.17, ``modeling_rwkv.py``; BlinkDL's package ``rwkv`` 0.8, class ``RWKV``. The two differ in names only. The
published files hold weights alone; their shapes tell every size except the length of the training texts.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base import rules
from zoo.interop.base.files import CHAT, TOKENIZERS, TRANSFORMERS
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.placing import LANGUAGE, take_part
from zoo.interop.base.recognise import library_config
from zoo.interop.base.rules import Rule, named
from zoo.interop.base.source import Source
from zoo.interop.base.transformers_config import count, refuse_others
from zoo.interop.causal_lm.settings import sampling_settings
from zoo.interop.causal_lm.write import language_files, whole_keywords
from zoo.processors.tokenizers.chat_tokenizer import read_language_tokenizer
from zoo.registry import register
from zoo.types import config_of, is_system, part_of

FAMILY, MODEL_TYPE = "rwkv4", "rwkv"
TRANSFORMERS_TARGET, AUTHORS = "transformers", "rwkv"  # targets of an export
CONTEXT_LENGTH = 1024  # of most published weights; no weight depends on it
DEFAULTS: dict[str, Any] = {  # of RwkvConfig
    **{"vocab_size": 50277, "context_length": 1024, "hidden_size": 4096, "num_hidden_layers": 32, "layer_norm_epsilon": 1e-5},
    **{"attention_hidden_size": None, "intermediate_size": None, "tie_word_embeddings": False},
}
SHARES = {"k": "key", "v": "value", "r": "receptance"}  # letter in the authors' names: word in transformers' names and ours
MATRICES = ("key", "value", "receptance")


def _flat(theirs: str, ours: str) -> Rule:
    """Return the rule of a vector with two more axes in theirs."""
    return Rule((theirs,), (ours,), lambda t: [t[0].flatten()], lambda t: [t[0][None, None]])


def _block(*, time: str, channel: str, letters: bool) -> list[Rule]:
    """Return the rules of one block.

    Args:
        time: their name of the time mix.
        channel: their name of the channel mix.
        letters: True if their shares have the letters of ``SHARES`` in place of words.
    """
    own = {f"{time}.time_decay": "time.decay", f"{time}.time_first": "time.first", f"{time}.output.weight": "time.out.weight"}
    own |= {f"{time}.{word}.weight": f"time.{word}.weight" for word in MATRICES}
    own |= {f"{channel}.{word}.weight": f"channel.{word}.weight" for word in MATRICES}
    own |= {"ln1.{w}": "norm1.{w}", "ln2.{w}": "norm2.{w}"}
    shares = [(time, "time", "kvr"), (channel, "channel", "kr")]
    flat = [
        _flat(f"{theirs}.time_mix_{letter if letters else SHARES[letter]}", f"{ours}.{SHARES[letter]}_share")
        for theirs, ours, several in shares
        for letter in several
    ]
    return [*named(own), *flat]


LIBRARY = [
    *named(
        {
            "rwkv.embeddings.weight": "embedding.weight",
            "rwkv.blocks.0.pre_ln.{w}": "embedding_norm.{w}",
            "rwkv.ln_out.{w}": "norm.{w}",
            "head.weight": "lm_head.weight",
        }
    ),
    *rules.under("rwkv.blocks.{i}.", "blocks.{i}.", _block(time="attention", channel="feed_forward", letters=False)),
]
PUBLISHED = [
    *named({"emb.weight": "embedding.weight", "blocks.0.ln0.{w}": "embedding_norm.{w}"}),
    *named({"ln_out.{w}": "norm.{w}", "head.weight": "lm_head.weight"}),
    *rules.under("blocks.{i}.", "blocks.{i}.", _block(time="att", channel="ffn", letters=True)),
]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of an RWKV-4, of transformers or of its authors."""
    keys = set(keys)
    return {"rwkv.embeddings.weight", "rwkv.blocks.0.attention.time_first"} <= keys or _is_published(keys)


def _is_published(keys: Iterable[str]) -> bool:
    return {"emb.weight", "blocks.0.att.time_first", "blocks.0.att.time_mix_k"} <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of transformers or of the authors to that of our ``rwkv4``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    published = _is_published(tensors)
    return rules.to_zoo(tensors, PUBLISHED if published else LIBRARY, origin=AUTHORS if published else TRANSFORMERS_TARGET)


def from_zoo(tensors: Mapping[str, Tensor], target: str = TRANSFORMERS_TARGET) -> dict[str, Tensor]:
    """Convert the state dict of our ``rwkv4`` to the names of ``target``: "transformers" or "rwkv"."""
    return rules.from_zoo(tensors, PUBLISHED if target == AUTHORS else LIBRARY, origin=target)


def arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``rwkv`` to keywords of our ``rwkv4``.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    whole = {**DEFAULTS, **config}
    legal = {"attention_hidden_size": (None, whole["hidden_size"]), "tie_word_embeddings": (False,)}
    refuse_others(whole, legal, "our rwkv4")
    dim = count(whole, "hidden_size")
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": count(whole, "context_length"),
        "dim": dim,
        "depth": count(whole, "num_hidden_layers"),
        "hidden_dim": 4 * dim if whole["intermediate_size"] is None else count(whole, "intermediate_size"),
        "eps": float(whole["layer_norm_epsilon"]),
    }


def arguments_of_shapes(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of our ``rwkv4`` that the shapes of a published file tell.

    Raises:
        WeightsError: a tensor is missing.
    """
    try:
        vocab_size, dim = shapes["emb.weight"]
        depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
        hidden_dim = shapes["blocks.0.ffn.key.weight"][0]
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{AUTHORS}: no shape of {error} that an RWKV-4 has; download the file again") from error
    return {"vocab_size": vocab_size, "context_length": CONTEXT_LENGTH, "dim": dim, "depth": depth, "hidden_dim": hidden_dim}


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Undo ``arguments``."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["RwkvForCausalLM"],
        "vocab_size": arguments["vocab_size"],
        "context_length": arguments["context_length"],
        "hidden_size": arguments["dim"],
        "attention_hidden_size": arguments["dim"],
        "intermediate_size": arguments["hidden_dim"] or 4 * arguments["dim"],
        "num_hidden_layers": arguments["depth"],
        "layer_norm_epsilon": arguments["eps"],
        "tie_word_embeddings": False,
    }


@register("format")
class Rwkv4Files(Format):
    """Language models ``rwkv4`` as directories of transformers, and in the files of their authors."""

    targets = (TRANSFORMERS_TARGET, AUTHORS)
    takes = "language models 'rwkv4', alone or in a system without encoders"
    model_types = (MODEL_TYPE,)
    files = {**TRANSFORMERS, **TOKENIZERS, **CHAT}

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Return a system without encoders; files of the authors have no tokenizer."""
        if _is_published(source.keys):
            language, given, left_out = arguments_of_shapes(source.shapes), None, ("the tokenizer, which no file of the weights holds",)
        else:
            found = library_config(source, self)
            assert source.directory is not None
            language, given = arguments(found), read_language_tokenizer(source.directory)
            left_out = tuple(sampling_settings(source.directory))
        template = "tokenizer" if given is not None and given.chat_template is not None else "none"
        system = {
            "name": source.name,
            "encoders": {},
            "head": {"name": "llava", "language": {"name": FAMILY, **language}},
            "processor": {"conversation": {"tokenizer": "given", "template": template}},
        }
        return Description({"system": system}, conversation=given, left_out=left_out)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the language model."""
        return take_part({f"{LANGUAGE}.{name}": tensor for name, tensor in to_zoo(source.tensors).items()}, source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return the files of a language model."""
        system = config_of(model)
        own = (system.get("head") or {}).get("language") if is_system(model) else system.get("language")
        if not own or own.get("name") != FAMILY:
            return None
        if is_system(model) and system.get("encoders"):
            raise ConfigError("export: files of RWKV hold a language model alone; export head.language, or use zoo.save")
        inner: Any = model.get_submodule("head.language") if is_system(model) else model
        if target == AUTHORS:
            return Export(
                {},
                lambda: from_zoo(inner.state_dict(), AUTHORS),
                weights="model.pth",
                save=lambda tensors, path: torch.save(dict(tensors), path),
            )
        files = language_files(config(whole_keywords("language", own)), part_of(model, "conversation"))
        return Export(files, lambda: from_zoo(inner.state_dict()))

"""transformers' ``RobertaModel`` and ``RobertaForMaskedLM`` <-> our ``bert`` and its head.

Reference: transformers 5.17, ``modeling_roberta.py``. After the embeddings it is BERT (``zoo.interop.text_encoders.bert``). Positions begin
elsewhere: padding has row ``pad_token_id`` of the table, and the first token the next row.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.rules import named, under
from zoo.interop.base.transformers_config import count, refuse_others
from zoo.interop.text_encoders import bert as transformers_bert
from zoo.interop.text_encoders.bert import family_arguments, family_config, family_head, new_names, refuse_kind

ORIGIN = "transformers"
FAMILY = "bert"
CLASSIFIER = ("lm_head", "classifier", "qa_outputs")
POOLER = ("pooler", "roberta.pooler")
MODEL_TYPE = "roberta"
DEFAULTS = {**transformers_bert.DEFAULTS, "vocab_size": 50265, "layer_norm_eps": 1e-12, "pad_token_id": 1}  # of RobertaConfig
HEAD = named({"lm_head.dense.{w}": "dense.{w}", "lm_head.layer_norm.{w}": "norm.{w}", "lm_head.bias": "bias"})
TIED = ("lm_head.decoder.weight", "lm_head.decoder.bias")
WORDS = "roberta.embeddings.word_embeddings.weight"


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a model with the prefix ``roberta.``; without it they are those of a ``BertModel``."""
    return WORDS in set(keys)


def has_head(keys: Collection[str]) -> bool:
    """Return True if there is a head of masked-language modelling."""
    return "lm_head.bias" in keys


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``bert``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    table = [*transformers_bert.MODEL, *under("roberta.", "", transformers_bert.MODEL)]
    return rules.to_zoo(
        new_names(tensors), table, origin=ORIGIN, drop=["embeddings.position_ids", "roberta.embeddings.position_ids", *drop]
    )


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``bert`` to that of ``RobertaModel``."""
    return transformers_bert.from_zoo(tensors, prefix=prefix)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the head of a ``RobertaForMaskedLM`` to our head ``bert``.

    Raises:
        WeightsError: the decoder is not tied to the word table, or the head is another one.
    """
    return family_head(tensors, HEAD, words=WORDS, tied=TIED, parts=CLASSIFIER)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``classifier_to_zoo``; the tied decoder is not written, because the library ties it when it reads."""
    return rules.from_zoo(tensors, HEAD, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``roberta`` to keywords of our ``bert``; see ``transformers_bert.arguments``.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    whole = {**DEFAULTS, **config}
    found = family_arguments(whole, keys, pooling)
    padding = whole["pad_token_id"]
    if not isinstance(padding, int) or not 0 <= padding < found["context_length"] - 1:
        raise ConfigError(f"pad_token_id: got {padding!r}; allowed is 0 to max_position_embeddings - 2")
    return {**found, "context_length": count(whole, "max_position_embeddings") - padding - 1, "padding_row": padding}


def head_arguments(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the keywords of our head ``bert``; its activation is always GELU."""
    return {**transformers_bert.head_arguments({**DEFAULTS, **config}, keys), "activation": "gelu"}


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keywords of our ``bert``, and of its head, as a ``config.json`` of a ``RobertaModel`` or ``RobertaForMaskedLM``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target = "transformers' RobertaModel"
    found = family_config(arguments, target)
    if arguments["padding_row"] is None:
        raise ConfigError(f"padding_row: got None, which {target} does not have; allowed is a row of the table of positions")
    if head is not None:
        refuse_others(head, {"sequence": (None,)}, "transformers' RobertaForMaskedLM")
        transformers_bert.refuse_head({**arguments, "activation": "gelu"}, head, "transformers' RobertaForMaskedLM")
    rows = arguments["context_length"] + arguments["padding_row"] + 1
    symbols = {"pad_token_id": arguments["padding_row"], "bos_token_id": None, "eos_token_id": None}
    architecture = "RobertaModel" if head is None else "RobertaForMaskedLM"
    return {**found, **symbols, "model_type": MODEL_TYPE, "architectures": [architecture], "max_position_embeddings": rows}

"""Text encoders of transformers and sentence-transformers as configs of ours, perhaps with the head of their pre-training."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenizers import Tokenizer

from zoo.errors import ConfigError
from zoo.interop.text_encoders import albert as transformers_albert
from zoo.interop.text_encoders import bert as transformers_bert
from zoo.interop.text_encoders import roberta as transformers_roberta
from zoo.interop.text_encoders import t5 as transformers_t5
from zoo.processors.tokenizers.library_tokenizers import read_tokenizer
from zoo.storage.checked import check
from zoo.storage.outside import read_json, read_json_object

TEXT: dict[str, ModuleType] = {  # by model_type
    "bert": transformers_bert,
    "roberta": transformers_roberta,
    "albert": transformers_albert,
    "t5": transformers_t5,
}
GIVEN = {"tokenizer": "given"}
SENTENCE_MODULES = ("Transformer", "Pooling", "Normalize")  # of sentence-transformers; the head normalises too


def describe_text(directory: Path, config: Mapping[str, Any], keys: Collection[str]) -> tuple[dict[str, Any], Tokenizer | None, str]:
    """A text encoder, with what sentence-transformers put around it, or a whole system where it has the head of its pre-training.

    Returns:
        The content of a ``config.yaml`` of ours, the tokenizer, and what of the source no part of ours makes, in words.

    Raises:
        ConfigError: something that our parts do not have.
        WeightsError: a tokenizer that cannot be read.
    """
    _refuse_modules(directory)
    origin = TEXT[config["model_type"]]
    pooling, sentence = (_read_optional(directory / name) for name in ("1_Pooling/config.json", "sentence_bert_config.json"))
    encoder = {"name": origin.FAMILY, **origin.arguments(config, keys, pooling or None)}
    found = read_tokenizer(directory, model_type=config["model_type"])
    text: dict[str, Any] = dict(found.settings if found is not None else GIVEN)
    tokenizer = None if found is None else found.tokenizer
    if tokenizer is not None and not pooling and _has_types(tokenizer):  # of sentence encoders every text is one
        encoder["separator_id"] = text["eot_token_id"]
    if (sentence.get("max_seq_length") or encoder["context_length"]) < encoder["context_length"]:
        text["max_length"] = sentence["max_seq_length"]
    if sentence.get("do_lower_case"):
        text["lowercase"] = True
    left_out = "its decoder" if any(key.startswith("decoder.") for key in keys) else ""
    if not origin.has_head(keys):
        return {"encoder": encoder, "processor": {"text": text}}, tokenizer, left_out
    head = {"name": "bert", **origin.head_arguments(config, keys)}
    system = {"name": directory.resolve().name, "encoders": {"text": encoder}, "head": head, "processor": {"text": text}}
    return {"system": system}, tokenizer, left_out


def _has_types(tokenizer: Tokenizer) -> bool:
    """Whether the second of two texts has tokens of type 1."""
    return 1 in tokenizer.encode("a", "b").type_ids


def _refuse_modules(directory: Path) -> None:
    path = directory / "modules.json"
    modules = check(read_json(path), list[dict[str, Any]], path) if path.exists() else []
    for module in modules:
        if str(module.get("type")).rpartition(".")[2] not in SENTENCE_MODULES:
            raise ConfigError(f"{path}: {module.get('type')} has no part of ours; allowed are {', '.join(SENTENCE_MODULES)}")


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.exists() else {}

"""Text encoders of ours, alone or with the head of their pre-training, as directories of transformers."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.text_encoders import albert as transformers_albert
from zoo.interop.text_encoders import bert as transformers_bert
from zoo.interop.text_encoders import roberta as transformers_roberta
from zoo.interop.text_encoders import t5 as transformers_t5
from zoo.processors.tokenizers.library_tokenizers import find_mask, tokenizer_files
from zoo.registry import find_part
from zoo.storage.files import WEIGHTS_FILE, atomic_directory
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.storage.tensors import write_tensors
from zoo.types import config_of, is_system, part_of

FAMILIES = ("bert", "albert", "t5")
POOLINGS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}  # ours: sentence-transformers'
UNKNOWN = ("[UNK]", "<unk>")


def is_text(model: nn.Module) -> bool:
    """Whether it is a text encoder that transformers has, alone or with the head ``bert``."""
    return (_encoder_config(model) or {}).get("name") in FAMILIES


def _encoder_config(model: nn.Module) -> dict[str, Any] | None:
    config = config_of(model)
    if not is_system(model):
        return config.get("encoder")
    alone = set(model.encoders) == {"text"} and (config.get("head") or {}).get("name") == "bert"
    return config["encoders"]["text"] if alone else None


def write_text(model: nn.Module, directory: Path) -> Path:
    """Write ``config.json``, ``model.safetensors`` and, where it has one, the tokenizer.

    An encoder that pools otherwise than BERT gets the files of sentence-transformers that say how.

    Raises:
        ConfigError: transformers has no model of this form, or it has adapters.
    """
    if config_of(model).get("adapters"):
        raise ConfigError("export: the model has adapters; fold them into its weights first: zoo.layers.adapters.merge(model)")
    arguments = _whole("encoder", _encoder_config(model) or {})
    origin = origin_of(arguments)
    head = _whole("head", model.config["head"]) if is_system(model) else None
    config = origin.config(arguments, head)
    tensors = _tensors(model, origin)
    words: Any = part_of(model, "text")
    files = {FOREIGN_CONFIG: config, **(_tokenizer_files(words) if words is not None and words.is_fitted else {})}
    if words is not None and words.is_fitted:
        config["pad_token_id"] = _padding(config, words)
    if head is None and arguments["name"] != "t5":
        files |= _sentence_files(arguments)
    with atomic_directory(directory) as folder:
        write_tensors(tensors, folder / WEIGHTS_FILE)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return directory


def origin_of(arguments: Mapping[str, Any]) -> ModuleType:
    """Which model of transformers an encoder is: where positions begin tells RoBERTa from BERT."""
    if arguments["name"] == "bert":
        return transformers_bert if arguments["padding_row"] is None else transformers_roberta
    return {"albert": transformers_albert, "t5": transformers_t5}[arguments["name"]]


def _tensors(model: nn.Module, origin: ModuleType) -> dict[str, Tensor]:
    if not is_system(model):
        return origin.from_zoo(model.state_dict())
    encoder, head = model.get_submodule("encoders.text"), model.get_submodule("head")
    return origin.from_zoo(encoder.state_dict(), prefix=f"{origin.MODEL_TYPE}.") | origin.classifier_from_zoo(head.state_dict())


def _padding(config: Mapping[str, Any], words: Any) -> int:
    """Where the config says on which row of the table of positions padding stands, it must stay."""
    ours = config.get("pad_token_id")
    if config["model_type"] == transformers_roberta.MODEL_TYPE and ours != words.pad_token_id:
        raise ConfigError(
            f"padding_row: {ours}, but texts are padded with {words.pad_token_id} (processor.text.pad_token_id); "
            "transformers' RobertaModel has one number for both"
        )
    return words.pad_token_id


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords with the defaults of those that a config leaves out."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **config}


def _sentence_files(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments["pool"] not in POOLINGS:
        return {}
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": arguments["dim"],
            **{word: pool == arguments["pool"] for pool, word in POOLINGS.items()},
        },
    }


def _tokenizer_files(words: Any) -> dict[str, Any]:
    files = tokenizer_files(
        words.tokenizer,
        cleaning=words.cleaning,
        lowercase=words.lowercase,
        pad_token_id=words.pad_token_id,
        eot_token_id=words.eot_token_id,
        max_length=min(words.context_length, words.max_length or words.context_length),
        masks=words.mask_padding,
    )
    config = files["tokenizer_config.json"]
    mask = find_mask(words.tokenizer)
    unknown = next((word for word in UNKNOWN if words.tokenizer.token_to_id(word) is not None), None)
    symbols = {
        "mask_token": None if mask is None else words.tokenizer.id_to_token(mask),
        "unk_token": unknown,
        "cls_token": config.get("bos_token"),
        "sep_token": config["eos_token"] if config.get("bos_token") else None,
    }
    if 1 in words.tokenizer.encode("a", "b").type_ids:
        config["model_input_names"] = [*config["model_input_names"], "token_type_ids"]
    config |= {name: word for name, word in symbols.items() if word is not None}
    return files

"""Text encoders, alone or with the head of their pre-training, as directories of transformers."""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.format import Export
from zoo.interop.text_encoders import albert as transformers_albert
from zoo.interop.text_encoders import bert as transformers_bert
from zoo.interop.text_encoders import deberta as transformers_deberta
from zoo.interop.text_encoders import deberta_v1 as transformers_deberta_v1
from zoo.interop.text_encoders import electra as transformers_electra
from zoo.interop.text_encoders import modernbert as transformers_modernbert
from zoo.interop.text_encoders import roberta as transformers_roberta
from zoo.interop.text_encoders import t5 as transformers_t5
from zoo.interop.text_encoders import xlm as transformers_xlm
from zoo.interop.text_encoders import xlnet as transformers_xlnet
from zoo.processors.tokenizers.library_tokenizers import TOKENIZER_CONFIG, find_mask, tokenizer_files
from zoo.registry import find_part
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.types import config_of, is_system, part_of

FAMILIES = {  # by the name of our encoder
    "bert": transformers_bert,
    "albert": transformers_albert,
    "electra": transformers_electra,
    "deberta": transformers_deberta,
    "modernbert": transformers_modernbert,
    "t5": transformers_t5,
    "xlnet": transformers_xlnet,
}
HEADS = {"bert": tuple(FAMILIES), "replaced_tokens": ("electra",)}  # heads of pre-training, and the encoders with which theirs has them
POOLINGS = {transformers_bert.OUR_POOLS[theirs]: key for key, theirs in transformers_bert.POOLINGS.items()}  # ours: theirs
UNKNOWN = ("[UNK]", "<unk>")


def text_export(model: nn.Module) -> Export | None:
    """Return ``config.json``, the weights and, if there is one, the tokenizer; None for a model of another family.

    An encoder that pools in another way than BERT gets the files of sentence-transformers that describe its pooling.

    Raises:
        ConfigError: transformers has no model of this form.
    """
    config = _encoder_config(model)
    if config is None or config.get("name") not in FAMILIES:
        return None
    arguments = _whole("encoder", config)
    origin = origin_of(arguments)
    head = _whole("head", model.config["head"]) if is_system(model) else None
    theirs = origin.config(arguments, head)
    words: Any = part_of(model, "text")
    files = {FOREIGN_CONFIG: theirs, **(word_files(words) if words is not None and words.is_fitted else {})}
    if words is not None and words.is_fitted:
        theirs["pad_token_id"] = _padding(theirs, words)
        files[TOKENIZER_CONFIG] |= transformers_xlnet.tokenizer_settings(words.tokenizer) if origin is transformers_xlnet else {}
    if head is None and (arguments["name"] != "t5" or arguments["normalise"]):  # T5 has one pool, so that nothing needs to say it
        files |= _sentence_files(arguments, words)
    return Export(files, lambda: _tensors(model, origin))


def _encoder_config(model: nn.Module) -> dict[str, Any] | None:
    config = config_of(model)
    if not is_system(model):
        return config.get("encoder")
    encoder = config["encoders"].get("text") or {}
    alone = set(model.encoders) == {"text"} and encoder.get("name") in HEADS.get(str((config.get("head") or {}).get("name")), ())
    return encoder if alone else None


def origin_of(arguments: Mapping[str, Any]) -> ModuleType:
    """Return the module of an encoder's model in transformers.

    RoBERTa differs from BERT in the row of its first position, XLM in the type of single texts, and DeBERTa's version 1 from the later ones
    in the biases.
    """
    if arguments["name"] == "bert" and arguments["padding_row"] is not None:
        return transformers_roberta
    if arguments["name"] == "bert" and arguments["default_type"] is None:
        return transformers_xlm
    if arguments["name"] == "deberta" and not arguments["key_bias"]:
        return transformers_deberta_v1
    return FAMILIES[arguments["name"]]


def _tensors(model: nn.Module, origin: ModuleType) -> dict[str, Tensor]:
    if not is_system(model):
        return origin.from_zoo(model.state_dict())
    encoder, head = model.get_submodule("encoders.text"), model.get_submodule("head")
    return origin.from_zoo(encoder.state_dict(), prefix=f"{origin.MODEL_TYPE}.") | origin.classifier_from_zoo(head.state_dict())


def _padding(config: Mapping[str, Any], words: Any) -> int:
    """Return the id of the padding.

    Raises:
        ConfigError: RoBERTa's config gives the padding another row of the position table.
    """
    ours = config.get("pad_token_id")
    if config["model_type"] == transformers_roberta.MODEL_TYPE and ours != words.pad_token_id:
        raise ConfigError(
            f"padding_row: {ours}, but texts are padded with {words.pad_token_id} (processor.text.pad_token_id); "
            "transformers' RobertaModel has one number for both"
        )
    return words.pad_token_id


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a config, completed with the defaults."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **config}


def _sentence_files(arguments: Mapping[str, Any], words: Any) -> dict[str, Any]:
    if arguments["pool"] not in POOLINGS:
        return {}
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if arguments["normalise"] else [])]
    prompt = "" if words is None else words.prompt
    prompts = {"prompts": {"default": prompt}, "default_prompt_name": "default", "similarity_fn_name": "cosine"}
    return {
        **({"config_sentence_transformers.json": prompts} if prompt else {}),
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": arguments["dim"],
            **{word: pool == arguments["pool"] for pool, word in POOLINGS.items()},
        },
    }


def word_files(words: Any) -> dict[str, Any]:
    """Return the files of the tokenizer of a text processor."""
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

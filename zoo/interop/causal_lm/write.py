"""Language models as directories of transformers: weights, config, and the tokenizer with its chat template."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.format import Export
from zoo.interop.causal_lm import configs, gguf_write, transformers_causal_lm
from zoo.registry import find_part
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.types import config_of, is_system, part_of

MARKERS = ("<image>", "<audio>")  # that our conversations add to a tokenizer
FAMILY = "causal_lm"


def language_export(model: nn.Module, target: str = "transformers") -> Export | None:
    """Return the files of a language model, alone or as the whole of a system; None for any other model.

    They are ``config.json``, ``generation_config.json``, the weights and, if there is one, the tokenizer; or one GGUF file.

    Raises:
        ConfigError: the target has no model of this form.
    """
    config = _config(model)
    if config is None:
        return None
    inner: Any = model.get_submodule("head.language") if is_system(model) else model
    if config["name"] == "magneto":
        raise ConfigError("export: transformers has Kosmos's decoder inside Kosmos-2 alone; export a system with images, or use zoo.save")
    if config["name"] != FAMILY:
        raise ConfigError(
            f"export: {config['name']!r} is another library's model already; save it with zoo.save, or with its own save_pretrained"
        )
    whole = whole_keywords("language", {"name": FAMILY, **config})
    if target in gguf_write.KINDS:
        name = str(config_of(model).get("name", FAMILY))
        return gguf_write.gguf_export(whole, inner.state_dict(), part_of(model, "conversation"), target, name)
    theirs, output = configs.config(whole), _reward_output(model)
    if output:
        theirs |= {"architectures": [_reward_class(theirs["model_type"])], "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    files = language_files(theirs, part_of(model, "conversation"))
    return Export(files, lambda: {**language_tensors(inner.state_dict(), config), **output})


def _reward_output(model: nn.Module) -> dict[str, Tensor]:
    """Return the output layer of a system with the head ``reward`` under transformers' name; nothing of other models."""
    is_reward = is_system(model) and (config_of(model).get("head") or {}).get("name") == "reward"
    return {"score.weight": model.get_submodule("head.output").state_dict()["weight"]} if is_reward else {}


def _reward_class(kind: str) -> str:
    """Return the name of transformers' class of reward models: ``LlamaForCausalLM`` becomes ``LlamaForSequenceClassification``."""
    family = configs.CLASSES[kind].removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    return f"{family}{'Text' if kind == configs.GEMMA3 else ''}ForSequenceClassification"


def _config(model: nn.Module) -> dict[str, Any] | None:
    config = config_of(model)
    if is_system(model):
        return None if config.get("encoders") else (config.get("head") or {}).get("language")
    return config.get("language")


def language_tensors(state: Mapping[str, Tensor], config: Mapping[str, Any], *, prefix: str = "") -> dict[str, Tensor]:
    """Return the weights under transformers' names.

    Args:
        config: of our ``causal_lm``; keywords that it leaves out have their defaults.
        prefix: before every name.
    """
    return transformers_causal_lm.from_zoo(state, whole_keywords("language", {"name": FAMILY, **config}), prefix=prefix)


def language_files(theirs: Mapping[str, Any], conversation: Any = None) -> dict[str, Any]:
    """Return the files beside the weights.

    Args:
        theirs: the ``config.json`` without ids of tokens.
        conversation: the processor's part that owns the tokenizer.
    """
    if conversation is None or not conversation.is_fitted:
        return {FOREIGN_CONFIG: dict(theirs) | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}}
    ends = conversation.eos_token_ids
    ids = {
        "bos_token_id": conversation.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": conversation.pad_token_id,
    }
    return {FOREIGN_CONFIG: dict(theirs) | ids, "generation_config.json": ids, **tokenizer_files(conversation)}


def tokenizer_files(conversation: Any) -> dict[str, Any]:
    """Return ``tokenizer.json``, ``tokenizer_config.json`` and the chat template, without the markers that were added here."""
    content = json.loads(conversation.tokenizer.to_str())
    words = content["model"].get("vocab", {})
    numbers = words.values() if isinstance(words, dict) else range(len(words))  # SentencePiece's are listed in order
    ids = [*numbers, *(t["id"] for t in content["added_tokens"] if t["content"] not in MARKERS)]
    last = max(ids, default=-1)
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in MARKERS or t["id"] <= last]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": conversation.context_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **(conversation.names or {}),
    }
    template = {} if conversation.chat_template is None else {"chat_template.jinja": conversation.chat_template}
    return {"tokenizer.json": content, "tokenizer_config.json": config, **template}


def whole_keywords(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a part's config, completed with the defaults."""
    parameters = inspect.signature(find_part(kind, config["name"])).parameters
    return {name: config.get(name, p.default) for name, p in parameters.items()}

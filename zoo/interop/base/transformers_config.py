"""Keys that transformers' configs share: a ``config.json`` as a dict <-> keywords of our ``vit`` and ``text``.

Reference: transformers 5.17. Dropout and initialisation are left out: they change training only; ours has no dropout
and its own initialisation.
"""

from collections.abc import Collection, Mapping
from typing import Any

from zoo.errors import ConfigError, name_choices
from zoo.layers.mlp import hidden_width

ACTIVATIONS = {  # theirs: ours; some of theirs are other ways to compute the same
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
THEIR_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu"}


def filled(config: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a config completed with the defaults of its ``model_type``; older files hold only the values that differ.

    Raises:
        ConfigError: the ``model_type`` is another one, or the model has other than three channels or a qkv without bias.
    """
    kind = str(config.get("model_type"))
    if kind not in defaults:
        raise ConfigError(f"model_type: got {kind!r}; {name_choices(kind, defaults)}")
    whole = {"num_channels": 3, "qkv_bias": True, **defaults[kind], **config}
    refuse_others(whole, {"num_channels": (3,), "qkv_bias": (True,)}, "our vit")
    return whole


def refuse_others(given: Mapping[str, Any], legal: Mapping[str, Collection[Any]], target: str) -> None:
    """Raise ConfigError for the first value that ``target`` does not have."""
    for key, values in legal.items():
        if given[key] not in values:
            allowed = " or ".join(repr(value) for value in values)
            raise ConfigError(f"{key}: got {given[key]!r}, which {target} does not have; allowed is {allowed}")


def count(config: Mapping[str, Any], key: str) -> int:
    """Return a whole number above zero.

    Raises:
        ConfigError: the value is anything else.
    """
    value = config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key}: got {value!r}; allowed is a whole number above 0")
    return value


def side(config: Mapping[str, Any], key: str) -> int:
    """Return the side of a square that is given as one number or as two equal ones.

    Raises:
        ConfigError: the value is anything else.
    """
    value = config[key]
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if isinstance(value, list | tuple):
        raise ConfigError(f"{key}: got {list(value)}; our vit takes squares: allowed is one number, or two equal ones")
    return count({key: value}, key)


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that every image model's config gives in the same way."""
    image_size, patch_size = side(config, "image_size"), side(config, "patch_size")
    return {
        "image_size": image_size,
        "patch_size": patch_size,
        "dim": count(config, "hidden_size"),
        "depth": count(config, "num_hidden_layers"),
        "num_heads": count(config, "num_attention_heads"),
        "eps": float(config["layer_norm_eps"]),
        "drop_remainder": image_size % patch_size != 0,
        "final_norm": True,
    }


def text_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that every text model's config gives in the same way."""
    return {
        "vocab_size": count(config, "vocab_size"),
        "context_length": count(config, "max_position_embeddings"),
        "dim": count(config, "hidden_size"),
        "depth": count(config, "num_hidden_layers"),
        "num_heads": count(config, "num_attention_heads"),
        "eps": float(config["layer_norm_eps"]),
    }


def feed_forward(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return width and activation of the feed-forward part.

    Raises:
        ConfigError: ours does not have the activation.
    """
    name = config["hidden_act"]
    if name not in ACTIVATIONS:
        raise ConfigError(f"hidden_act: our vit has no {name!r}; {name_choices(str(name), ACTIVATIONS)}")
    return {"mlp_ratio": count(config, "intermediate_size") / count(config, "hidden_size"), "activation": ACTIVATIONS[name]}


def their_sizes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Undo ``sizes``.

    Raises:
        ConfigError: there is no norm behind the last block.
    """
    refuse_others({"final_norm": True, **arguments}, {"final_norm": (True,)}, "this image model of transformers")
    return {
        "image_size": arguments["image_size"],
        "patch_size": arguments["patch_size"],
        "num_channels": 3,
        "hidden_size": arguments["dim"],
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["num_heads"],
        "layer_norm_eps": arguments["eps"],
    }


def their_text_sizes(arguments: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Undo ``text_sizes`` and ``feed_forward``."""
    return {
        "vocab_size": arguments["vocab_size"],
        "max_position_embeddings": arguments["context_length"],
        "hidden_size": arguments["dim"],
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["num_heads"],
        "layer_norm_eps": arguments["eps"],
        "intermediate_size": hidden_width(arguments["dim"], arguments["mlp_ratio"]),
        "hidden_act": their_activation(arguments, target),
    }


def their_activation(arguments: Mapping[str, Any], target: str) -> str:
    """Return their name of our activation.

    Raises:
        ConfigError: theirs does not have it.
    """
    refuse_others(arguments, {"activation": THEIR_ACTIVATIONS}, target)
    return THEIR_ACTIVATIONS[arguments["activation"]]

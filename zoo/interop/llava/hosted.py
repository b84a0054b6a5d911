"""Parts of a LLaVA that no part of ours is: image towers and language models that run in transformers itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.backbones.rows import NEEDLESS
from zoo.interop.base.source import Source
from zoo.layers.hosted_transformers import import_transformers, parse_config, quiet_and_offline, read_into
from zoo.layers.meta import meta_device
from zoo.registry.construct import build_part

NAME = "transformers"  # of our encoder and our language model that host
# Keys of configs whose own model changes its scores after the last projection, which LLaVA's forward does not do.
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
NO_SCALE = (None, 1, 1.0, False)


@dataclass(frozen=True)
class Hosted:
    """Parts that run in transformers: the image tower, and the language model with the prefix of its inner model's names ("model")."""

    vision: bool = False
    language: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Hosted":
        """Read the hosted parts off a system's config."""
        language = config["head"]["language"]
        base = base_prefix(language["config"]) if language["name"] == NAME else ""
        return cls(config["encoders"]["image"]["name"] == NAME, base)

    def vision_to_zoo(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of an image tower under our names."""
        return {f"model.{name}": tensor for name, tensor in tensors.items()}

    def vision_from_zoo(self, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Undo ``vision_to_zoo``, with a prefix."""
        return {prefix + name.removeprefix("model."): tensor for name, tensor in tensors.items()}

    def language_to_zoo(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a language model, whose inner model LLaVA calls ``model``, under our names."""
        return {f"model.{_renamed(name, 'model', self.language)}": tensor for name, tensor in tensors.items()}

    def language_from_zoo(self, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Undo ``language_to_zoo``, with a prefix."""
        return {prefix + _renamed(name.removeprefix("model."), self.language, "model"): tensor for name, tensor in tensors.items()}


def _renamed(name: str, old: str, new: str) -> str:
    return f"{new}.{name.removeprefix(f'{old}.')}" if name.startswith(f"{old}.") else name


def hosted_encoder(vision: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the encoder of a ``vision_config`` and its number of prefix tokens, which a trial on the meta device tells.

    Raises:
        ConfigError: transformers has no vision backbone for the config.
    """
    config = {key: value for key, value in vision.items() if key not in NEEDLESS and not key.startswith("_")}
    arguments = {"name": NAME, "config": config}
    with meta_device():
        encoder = build_part("encoder", arguments, "vision_config")
    return arguments, encoder.num_prefix_tokens


def refuse_scaled_scores(text: Mapping[str, Any]) -> None:
    """Raise ConfigError if a language model changes its scores in a way that LLaVA leaves out."""
    for key in SCALED:
        if text.get(key) not in NO_SCALE:
            raise ConfigError(
                f"text_config.{key}: got {text[key]!r}, which transformers' LLaVA ignores and a {text['model_type']} alone does not; zoo "
                "does not guess which of both the weights were trained with. Choose another language model"
            )


def hosted_language(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the language model of a ``text_config``.

    Raises:
        ConfigError: transformers has no such model, or the model changes its scores in a way that LLaVA leaves out.
    """
    refuse_scaled_scores(parse_config(text, {}, example="llama").to_dict())
    base_prefix(text)  # refuses a type without a causal language model
    return {"name": NAME, "config": {key: value for key, value in text.items() if key not in NEEDLESS and not key.startswith("_")}}


def language_facts(language: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of a hosted language model that conversations need; a trial on the meta device tells them."""
    if language["name"] != NAME:
        return {}
    with meta_device():
        model = build_part("language", language, "text_config")
    return {"vocab_size": model.vocab_size, "context_length": model.context_length}


def base_prefix(text: Mapping[str, Any]) -> str:
    """Return the word before the names of the inner model in a causal language model of transformers, mostly "model".

    Raises:
        ConfigError: transformers has no causal language model of this type.
    """
    library = import_transformers()
    parsed = type(parse_config(text, {}, example="llama"))
    known = library.MODEL_FOR_CAUSAL_LM_MAPPING
    if parsed not in known:
        raise ConfigError(f"text_config.model_type: {text.get('model_type')!r} is not a causal language model; choose one such as qwen2")
    return known[parsed].base_model_prefix


def read_with_transformers(source: Source) -> dict[str, Tensor]:
    """Return the weights of a LLaVA's directory under the names that transformers has in memory.

    Transformers reads them, because it knows the old names of each of its own parts.

    Raises:
        WeightsError: the files cannot be read, or do not fit.
    """
    library = import_transformers()
    assert source.directory is not None
    parsed = parse_config(source.config, {}, example="llava")
    with meta_device(), quiet_and_offline():
        empty: nn.Module = library.LlavaForConditionalGeneration(parsed)
    return dict(read_into(empty, source.directory).state_dict())

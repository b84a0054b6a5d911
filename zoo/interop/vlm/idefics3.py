"""transformers' ``Idefics3ForConditionalGeneration`` and ``SmolVLMForConditionalGeneration`` <-> our ``vit``, ``llava`` and ``causal_lm``.

Papers: Laurencon et al. 2024 (Idefics3, arXiv 2408.12637); Marafioti et al. 2025 (SmolVLM, arXiv 2504.05299). Reference: transformers 5.17,
``modeling_idefics3.py``, ``image_processing_pil_idefics3.py``. Both classes compute the same, so that the first is written for both.

Differences: theirs drops a tile whose processed values are all zero as padding, so that features are missing; ours keeps it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.image_preprocessing import interpolation_of, normalisation_of, shared_settings
from zoo.interop.base.rules import named, under
from zoo.interop.base.transformers_config import count, refuse_others
from zoo.interop.causal_lm import configs, transformers_causal_lm
from zoo.interop.clip import transformers_clip
from zoo.interop.llava.hosted import refuse_scaled_scores
from zoo.interop.vlm.family import Family, siglip_tower
from zoo.layers.tilers.split import Split
from zoo.processors.image import ImageProcessor

ORIGIN = "transformers"
TEXT, OUTPUT = "model.text_model.", "lm_head."
VISION = {
    **{"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16, "image_size": 224},
    **{"patch_size": 32, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
# Published files may name the whole model in the tower's config.
DEFAULTS: dict[str, dict[str, Any]] = dict.fromkeys(("idefics3_vision", "smolvlm_vision", "idefics3", "smolvlm"), VISION)
NAMES = [
    *under("model.vision_model.", "encoders.image.", transformers_clip.VISION),
    *named({"model.connector.modality_projection.proj.weight": "head.connectors.image.linear.weight"}),
]
LARGEST_SIDE = 4096  # pixels; theirs makes no picture larger
BACK_END = "transformers' Idefics3ForConditionalGeneration"


class Idefics3(Family):
    """Idefics3 and SmolVLM: ``split`` tiles, a SigLIP tower with its last norm, pixel shuffle and one matrix."""

    model_types = ("idefics3", "smolvlm")
    architecture = "Idefics3ForConditionalGeneration"
    processor_class = "Idefics3Processor"
    tiler = Split
    template = "none"

    def recognises(self, keys: Collection[str]) -> bool:
        return "model.connector.modality_projection.proj.weight" in keys

    def system(self, config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
        vision = siglip_tower({"model_type": "idefics3_vision", **(config.get("vision_config") or {})}, DEFAULTS)
        text = {"model_type": "llama", **(config.get("text_config") or {})}
        tied = bool(config.get("tie_word_embeddings", False))
        if keys:  # a tied projection is not written
            tied = not any(key.startswith(OUTPUT) for key in keys)
        words = configs.arguments({**text, "tie_word_embeddings": tied})
        refuse_scaled_scores({"model_type": text["model_type"], "final_logit_softcapping": words.get("logit_cap")})
        factor = count({"scale_factor": 2, **config}, "scale_factor")
        return {
            "encoders": {"image": {"name": "vit", **transformers_clip.arguments(vision)}},
            "head": {
                "name": "llava",
                "language": {"name": "causal_lm", **words},
                "connectors": {"image": {"kind": "pixel_shuffle", "factor": factor, "bias": False}},
                "feature_layer": None,
            },
        }

    def images(self, settings: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if not settings.get("do_image_splitting", True):
            raise ConfigError(
                f"{origin}: do_image_splitting: false resizes a picture twice, which zoo's image processor does not; set it to true, and "
                "choose system.processor.image.tiler={kind: split, side_tiles: 1} for one tile per picture"
            )
        tile, longest = (_edge(settings, key, default, origin) for key, default in (("max_image_size", 364), ("size", 4 * 364)))
        if longest % tile or longest > LARGEST_SIDE:
            raise ConfigError(
                f"{origin}: size: longest_edge {longest} with tiles of {tile} pixels (max_image_size); allowed is a multiple of {tile} up "
                f"to {LARGEST_SIDE}"
            )
        preprocessing = {
            "image_size": tile,
            "resize": "squash",
            "interpolation": interpolation_of({"resample": 1, **settings}, origin),
            **normalisation_of({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **settings}, origin),
        }
        return preprocessing, {"tiler": {"kind": "split", "side_tiles": longest // tile}}

    def to_zoo(self, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
        words = {name: tensor for name, tensor in tensors.items() if name.startswith((TEXT, OUTPUT))}
        rest = {name: tensor for name, tensor in tensors.items() if name not in words}
        renamed = {f"model.{name.removeprefix(TEXT)}" if name.startswith(TEXT) else name: tensor for name, tensor in words.items()}
        language = transformers_causal_lm.to_zoo(renamed, tied=tied)
        drop = [f"model.vision_model.{name}" for name in transformers_clip.OLD_BUFFERS]
        placed = rules.to_zoo(rest, NAMES, origin=ORIGIN, drop=drop)
        return {**placed, **{f"head.language.{name}": tensor for name, tensor in language.items()}}

    def from_zoo(self, tensors: Mapping[str, Tensor], language: Mapping[str, Any]) -> dict[str, Tensor]:
        ours = "head.language."
        words = {name.removeprefix(ours): tensor for name, tensor in tensors.items() if name.startswith(ours)}
        theirs = transformers_causal_lm.from_zoo(words, language)
        renamed = {TEXT + name.removeprefix("model.") if name.startswith("model.") else name: tensor for name, tensor in theirs.items()}
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(ours)}
        return {**rules.from_zoo(rest, NAMES, origin=ORIGIN), **renamed}

    def config(
        self, image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], processor: ImageProcessor, marker: int
    ) -> dict[str, Any]:
        word = head["connectors"].get("image", "mlp")
        options = {"factor": 2, "bias": True, "newline": False, **({"kind": word} if isinstance(word, str) else word)}
        legal = {"kind": ("pixel_shuffle",), "bias": (False,), "newline": (False,)}
        refuse_others({f"head.connectors.image.{key}": options[key] for key in legal}, _below("head.connectors.image.", legal), BACK_END)
        refuse_others({"head.feature_layer": head["feature_layer"]}, {"head.feature_layer": (None,)}, BACK_END)
        tower = {"class_token": (False,), "pool": ("none",)}
        refuse_others({f"encoders.image.{key}": image[key] for key in tower}, _below("encoders.image.", tower), BACK_END)
        vision = {**transformers_clip.config(image), "model_type": "idefics3_vision"}
        del vision["architectures"], vision["vision_use_head"]
        return {
            "vision_config": vision,
            "text_config": configs.config(language),
            "image_token_id": marker,
            "scale_factor": options["factor"],
            "tie_word_embeddings": language["tied"],
        }

    def preprocessor(self, processor: ImageProcessor, per_tile: int) -> dict[str, Any]:
        tiler = processor.tiler
        assert isinstance(tiler, Split)
        plain = Split(tile_size=tiler.tile_size)
        for key in ("around", "row_tag", "whole_tag"):
            given = {f"processor.image.tiler.{key}": vars(tiler)[key]}
            refuse_others(given, {f"processor.image.tiler.{key}": (vars(plain)[key],)}, "transformers' Idefics3Processor")
        return {
            **shared_settings(processor),
            "image_processor_type": "Idefics3ImageProcessor",
            "size": {"longest_edge": tiler.tile_size * tiler.side_tiles},
            "max_image_size": {"longest_edge": tiler.tile_size},
            **{"do_image_splitting": True, "do_pad": True, "do_convert_rgb": True},
        }

    def processor_config(self, config: Mapping[str, Any], per_tile: int, prefix: int) -> dict[str, Any]:
        return {"image_seq_len": per_tile}


def _below(prefix: str, legal: Mapping[str, Collection[Any]]) -> dict[str, Collection[Any]]:
    return {prefix + key: values for key, values in legal.items()}


def _edge(settings: Mapping[str, Any], key: str, default: int, origin: str) -> int:
    """Return a size that is given as ``{"longest_edge": pixels}``."""
    given = settings.get(key) or {"longest_edge": default}
    if not isinstance(given, Mapping) or not isinstance(given.get("longest_edge"), int) or given["longest_edge"] < 1:
        raise ConfigError(f"{origin}: {key}: got {given!r}; allowed is longest_edge with a whole number above 0")
    return given["longest_edge"]

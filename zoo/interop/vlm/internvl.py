"""transformers' ``InternVLForConditionalGeneration`` <-> our ``vit`` (InternViT), ``llava`` with a pixel shuffle and an MLP, ``causal_lm``.

Papers: Chen et al. 2024 (InternVL 1.5, arXiv 2404.16821), section 3; Zhu et al. 2025 (InternVL3, arXiv 2504.10479). Reference: transformers
5.17, ``modeling_internvl.py``. A tower without biases of queries, keys and values gets zeros, and is written with them.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.image_preprocessing import interpolation_of, normalisation_of, shared_settings
from zoo.interop.base.rules import joined, named, under
from zoo.interop.base.transformers_config import feed_forward, refuse_others, sizes, their_activation, their_sizes
from zoo.interop.causal_lm import configs, transformers_causal_lm
from zoo.interop.llava import names as transformers_llava
from zoo.interop.llava.hosted import refuse_scaled_scores
from zoo.interop.vlm.family import Family, tied_words
from zoo.layers.mlp import hidden_width
from zoo.layers.tilers.canvas import Canvas
from zoo.processors.image import ImageProcessor
from zoo.types.processor import CLIP_MEAN, CLIP_STD

ORIGIN = "transformers"
MARKER, START, END = "<IMG_CONTEXT>", "<img>", "</img>"
VISION = {  # of InternVLVisionConfig
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 448},
    **{"patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "attention_bias": False, "use_qk_norm": False},
    **{"norm_type": "layer_norm", "use_mask_token": False, "use_absolute_position_embeddings": True, "layer_scale_init_value": 0.1},
    **{"use_mean_pooling": True, "num_channels": 3},
}
LEGAL = {
    **{"use_qk_norm": (False,), "norm_type": ("layer_norm",), "use_mask_token": (False,), "use_absolute_position_embeddings": (True,)},
    **{"use_mean_pooling": (True,), "num_channels": (3,)},
}
BLOCK = [
    joined([f"attention.{name}_proj.{{w}}" for name in "qkv"], "attention.qkv.{w}"),
    *named(
        {
            "attention.projection_layer.{w}": "attention.out.{w}",
            "layernorm_before.{w}": "norm1.{w}",
            "layernorm_after.{w}": "norm2.{w}",
            "lambda_1": "scale1.scale",
            "lambda_2": "scale2.scale",
            "mlp.fc1.{w}": "mlp.fc1.{w}",
            "mlp.fc2.{w}": "mlp.fc2.{w}",
        }
    ),
]
TOWER = [
    *named(
        {
            "embeddings.cls_token": "class_token",
            "embeddings.position_embeddings": "positions",
            "embeddings.patch_embeddings.projection.{w}": "patch.project.{w}",
        }
    ),
    *under("encoder.layer.{i}.", "blocks.{i}.", BLOCK),
]
PROJECTOR = named({"layer_norm.{w}": "norm.{w}", "linear_1.{w}": "linear.{w}", "linear_2.{w}": "more.0.{w}"})
DEFAULTS = {
    **{"downsample_ratio": 0.5, "projector_hidden_act": "gelu", "vision_feature_layer": -1, "vision_feature_select_strategy": "default"},
}
BACK_END = "transformers' InternVLForConditionalGeneration"


class InternVL(Family):
    """InternVL: ``canvas`` tiles of an InternViT without last norm."""

    model_types = ("internvl",)
    architecture = "InternVLForConditionalGeneration"
    processor_class = "InternVLProcessor"
    tiler = Canvas
    template = "chatml"
    marker = MARKER
    conversation = {"spans": {"image": [START, END]}}
    tokenizer_words = {"start_image_token": START, "end_image_token": END, "context_image_token": MARKER, "video_token": "<video>"}

    def recognises(self, keys: Collection[str]) -> bool:
        return any(key.endswith("multi_modal_projector.layer_norm.weight") for key in keys)

    def system(self, config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
        whole = {**DEFAULTS, **config}
        legal = {"projector_hidden_act": ("gelu",), "vision_feature_layer": (-1,), "vision_feature_select_strategy": ("default",)}
        refuse_others(whole, legal, "our llava")
        ratio = whole["downsample_ratio"]
        if not isinstance(ratio, int | float) or not 0 < ratio <= 1 or (1 / ratio) % 1:
            raise ConfigError(f"downsample_ratio: got {ratio!r}; allowed is 1 divided by a whole number, for example 0.5")
        text = {"model_type": "qwen2", **(config.get("text_config") or {})}
        words = configs.arguments({**text, "tie_word_embeddings": tied_words(config, keys, default=True)})
        refuse_scaled_scores({"model_type": text["model_type"], "final_logit_softcapping": words.get("logit_cap")})
        connector = {"kind": "pixel_shuffle", "factor": round(1 / ratio), "norm": True, "depth": 2}
        return {
            "encoders": {"image": {"name": "vit", **_tower(config.get("vision_config") or {})}},
            "head": {
                "name": "llava",
                "language": {"name": "causal_lm", **words},
                "connectors": {"image": connector},
                "feature_layer": -1,
            },
        }

    def images(self, settings: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
        size = settings.get("size") or {"height": 384, "width": 384}
        side = size.get("height") if isinstance(size, Mapping) else size
        if not isinstance(side, int) or side < 1 or (isinstance(size, Mapping) and size.get("width") != side):
            raise ConfigError(f"{origin}: size: got {size!r}; allowed are equal height and width")
        preprocessing = {
            "image_size": side,
            "resize": "squash",
            "interpolation": interpolation_of({"resample": 3, **settings}, origin),
            **normalisation_of({"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), **settings}, origin),
        }
        numbers = {ours: settings.get(theirs, default) for ours, theirs, default in LIMITS}
        return preprocessing, {"tiler": {"kind": "canvas", **numbers}}

    def to_zoo(self, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
        parts = transformers_llava.split_parts(tensors)
        return transformers_llava.in_system(
            {
                "vision": rules.to_zoo(_with_biases(parts["vision"]), TOWER, origin=ORIGIN),
                "projector": rules.to_zoo(parts["projector"], PROJECTOR, origin=ORIGIN),
                "language": transformers_causal_lm.to_zoo(parts["language"], tied=tied),
            }
        )

    def from_zoo(self, tensors: Mapping[str, Tensor], language: Mapping[str, Any]) -> dict[str, Tensor]:
        parts = transformers_llava.of_system(tensors)
        return {
            **rules.from_zoo(parts["vision"], under("vision_tower.", "", TOWER), origin=ORIGIN),
            **rules.from_zoo(parts["projector"], under("multi_modal_projector.", "", PROJECTOR), origin=ORIGIN),
            **transformers_causal_lm.from_zoo(parts["language"], language, prefix="language_model."),
        }

    def config(
        self, image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], processor: ImageProcessor, marker: int
    ) -> dict[str, Any]:
        word = head["connectors"].get("image", "mlp")
        options = {"factor": 2, "bias": True, "norm": False, "depth": 1, **({"kind": word} if isinstance(word, str) else word)}
        legal = {"kind": ("pixel_shuffle",), "bias": (True,), "norm": (True,), "depth": (2,)}
        given = {f"head.connectors.image.{key}": options[key] for key in legal} | {"head.feature_layer": head["feature_layer"]}
        refuse_others(given, dict(zip(given, [*legal.values(), (-1,)], strict=True)), BACK_END)
        return {
            "vision_config": _their_tower(image),
            "text_config": configs.config(language),
            "image_token_id": marker,
            "image_seq_length": ((image["image_size"] // image["patch_size"]) // options["factor"]) ** 2,
            "downsample_ratio": 1 / options["factor"],
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": language["tied"],
        }

    def preprocessor(self, processor: ImageProcessor, per_tile: int) -> dict[str, Any]:
        tiler, side = processor.tiler, processor.image_size
        assert isinstance(tiler, Canvas)
        return {
            **shared_settings(processor),
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": {"height": side, "width": side},
            **{"crop_to_patches": True, "do_convert_rgb": True},
            **{theirs: getattr(tiler, ours) for ours, theirs, _ in LIMITS},
        }

    def processor_config(self, config: Mapping[str, Any], per_tile: int, prefix: int) -> dict[str, Any]:
        return {"image_seq_length": per_tile}


LIMITS = (("min_tiles", "min_patches", 1), ("max_tiles", "max_patches", 12))  # our option of the tiler, theirs, its default


def _tower(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a ``vision_config`` to keywords of our ``vit``."""
    whole = {**VISION, **vision}
    refuse_others(whole, LEGAL, "our vit")
    return {
        **sizes(whole),
        **feed_forward(whole),
        "class_token": True,
        "final_norm": False,
        "layer_scale": float(whole["layer_scale_init_value"]),
        "pool": "none",
        "antialias": False,
    }


def _their_tower(image: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our ``vit`` to a ``vision_config``."""
    legal = {
        **{"class_token": (True,), "num_registers": (0,), "patch_bias": (True,), "pre_norm": (False,), "final_norm": (False,)},
        "pool": ("none",),
    }
    given = {f"encoders.image.{key}": image[key] for key in legal}
    refuse_others(given, dict(zip(given, legal.values(), strict=True)), BACK_END)
    if image["layer_scale"] is None:
        raise ConfigError(f"encoders.image.layer_scale: null, which {BACK_END} does not have; allowed is a number")
    found = their_sizes({key: value for key, value in image.items() if key != "final_norm"})
    square = {key: [found[key]] * 2 for key in ("image_size", "patch_size")}
    return {
        **{**found, **square, "model_type": "internvl_vision"},
        "intermediate_size": hidden_width(image["dim"], image["mlp_ratio"]),
        "hidden_act": their_activation(image, BACK_END),
        "layer_scale_init_value": image["layer_scale"],
        "attention_bias": True,
        **{key: values[0] for key, values in LEGAL.items()},
    }


def _with_biases(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a tower's tensors with biases of zero where queries, keys and values have none."""
    weights = {name: each for name, each in tower.items() if name.endswith(tuple(f"attention.{part}_proj.weight" for part in "qkv"))}
    zeros = {name.removesuffix("weight") + "bias": torch.zeros(len(each), dtype=each.dtype) for name, each in weights.items()}
    return {**zeros, **tower}

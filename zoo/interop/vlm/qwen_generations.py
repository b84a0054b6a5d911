"""The three generations of Qwen-VL: names of their tensors and keys of their configs. See ``qwen.py``."""

import math
from collections.abc import Mapping
from typing import Any

from zoo.errors import ConfigError
from zoo.interop.base.rules import lifted, named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation
from zoo.interop.causal_lm import configs
from zoo.interop.causal_lm.transformers_causal_lm import stacked
from zoo.interop.vlm.qwen import IMAGE, TOWER, Qwen, block
from zoo.layers.tilers.fit import Fit
from zoo.processors.image import ImageProcessor
from zoo.types import Tiler

NEW_MERGER = {"norm.{w}": "norm.{w}", "linear_fc1.{w}": "fc1.{w}", "linear_fc2.{w}": "fc2.{w}"}
OLD_MERGER = {"ln_q.{w}": "norm.{w}", "mlp.0.{w}": "fc1.{w}", "mlp.2.{w}": "fc2.{w}"}


class Qwen2VL(Qwen):
    """Qwen2-VL: layer norms, quick GELU, full attention."""

    model_types = ("qwen2_vl",)
    architecture = "Qwen2VLForConditionalGeneration"
    text_type = configs.QWEN2
    vision = {
        **{"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "hidden_act": "quick_gelu", "mlp_ratio": 4, "num_heads": 16},
        **{"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
    }
    tower = {"norm": "layer", "patch_bias": False, "position_grid": None, "window": None, "deepstack": []}
    tower_rules = (
        *under("blocks.{i}.", TOWER + "blocks.{i}.", block(named({"mlp.fc1.{w}": "mlp.fc1.{w}", "mlp.fc2.{w}": "mlp.fc2.{w}"}))),
        *under("merger.", IMAGE + "merger.", named(OLD_MERGER)),
    )

    def _sign(self) -> str:
        return "visual.blocks.0.mlp.fc1.weight"

    def _sizes(self, vision: Mapping[str, Any], merge: int, patch: int) -> dict[str, Any]:
        dim, ratio = count(vision, "embed_dim"), vision["mlp_ratio"]
        return {"dim": dim, "hidden_dim": int(dim * ratio), "activation": _activation(vision)}

    def _their_sizes(self, image: Mapping[str, Any], merge: int, dim: int) -> dict[str, Any]:
        ratio = image["hidden_dim"] // image["dim"]
        if ratio * image["dim"] != image["hidden_dim"]:
            raise ConfigError(f"encoders.image.hidden_dim: {image['hidden_dim']}; Qwen2-VL has a whole multiple of dim {image['dim']}")
        return {"embed_dim": image["dim"], "hidden_size": dim, "mlp_ratio": ratio, "hidden_act": their_activation(image, "Qwen2-VL")}

    def _out(self, vision: Mapping[str, Any]) -> int:
        return count(vision, "hidden_size")


class Qwen25VL(Qwen):
    """Qwen2.5-VL: RMS norms, gated feed-forward layers, attention in windows but in a few blocks."""

    model_types = ("qwen2_5_vl",)
    architecture = "Qwen2_5_VLForConditionalGeneration"
    processor_class = "Qwen2_5_VLProcessor"
    text_type = configs.QWEN2
    vision = {
        **{"depth": 32, "hidden_size": 3584, "hidden_act": "silu", "intermediate_size": 3420, "num_heads": 16, "patch_size": 14},
        **{"spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "out_hidden_size": 3584},
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    tower = {"norm": "rms", "patch_bias": False, "position_grid": None, "deepstack": [], "activation": "swiglu"}
    tower_rules = (
        *under(
            "blocks.{i}.",
            TOWER + "blocks.{i}.",
            block([stacked(["mlp.gate_proj.{w}", "mlp.up_proj.{w}"], "mlp.fc1.{w}", (1, 1)), *named({"mlp.down_proj.{w}": "mlp.fc2.{w}"})]),
        ),
        *under("merger.", IMAGE + "merger.", named(OLD_MERGER)),
    )

    video = {"time": "seconds", "shared": False}

    def _sign(self) -> str:
        return "visual.blocks.0.mlp.gate_proj.weight"

    def video_options(
        self, config: Mapping[str, Any], settings: Mapping[str, Any], origin: str, preprocessing: Mapping[str, Any]
    ) -> dict[str, Any]:
        found = super().video_options(config, settings, origin, preprocessing)["video"]
        vision = {"tokens_per_second": 4, **(config.get("vision_config") or {})}
        return {"video": {**found, "per_second": vision["tokens_per_second"]}}

    def _their_time(self, processor: ImageProcessor) -> dict[str, Any]:
        video = processor.tiler.video if isinstance(processor.tiler, Fit) else None
        if video is None:
            return {}
        if video.per_second != int(video.per_second):
            raise ConfigError(
                f"processor.image.tiler.video.per_second: {video.per_second}; Qwen2.5-VL has a whole number of steps a second"
            )
        return {"tokens_per_second": int(video.per_second)}

    def _sizes(self, vision: Mapping[str, Any], merge: int, patch: int) -> dict[str, Any]:
        refuse_others(vision, {"hidden_act": ("silu", "swish")}, "our qwen_vision")
        return {
            **{"dim": count(vision, "hidden_size"), "hidden_dim": count(vision, "intermediate_size")},
            "window": count(vision, "window_size") // merge // patch * merge,
            "full_layers": [int(layer) for layer in vision["fullatt_block_indexes"]],
        }

    def _their_sizes(self, image: Mapping[str, Any], merge: int, dim: int) -> dict[str, Any]:
        if image["window"] is None or image["window"] % merge or image["activation"] != "swiglu":
            raise ConfigError(
                f"encoders.image: window {image['window']}, activation {image['activation']!r}; Qwen2.5-VL has a window that is a multiple "
                f"of {merge} patches, and swiglu"
            )
        return {
            **{"hidden_size": image["dim"], "intermediate_size": image["hidden_dim"], "hidden_act": "silu", "out_hidden_size": dim},
            **{"window_size": image["window"] * image["patch_size"], "fullatt_block_indexes": list(image["full_layers"])},
        }


class Qwen3VL(Qwen):
    """Qwen3-VL: learned positions beside the rotary ones, DeepStack, interleaved rotary positions of the language model."""

    model_types = ("qwen3_vl",)
    architecture = "Qwen3VLForConditionalGeneration"
    processor_class = "Qwen3VLProcessor"
    text_type = configs.QWEN3
    text = {
        **{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 128000, "rms_norm_eps": 1e-6},
    }
    sections = (24, 20, 20)
    theta = 5e5
    vision = {
        **{"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 4304, "num_heads": 16},
        **{"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584, "num_position_embeddings": 2304},
        "deepstack_visual_indexes": [8, 16, 24],
    }
    tower = {"norm": "layer", "patch_bias": True, "window": None}
    nested = True
    video = {"time": "text", "shared": True}
    video_size = (128 * 32 * 32, 768 * 32 * 32)
    video_tokens = 768
    video_processor = "Qwen3VLVideoProcessor"
    tower_rules = (
        *named({"patch_embed.proj.bias": f"{TOWER}patch.bias"}),
        lifted("pos_embed.weight", f"{TOWER}positions"),
        *under(
            "blocks.{i}.",
            TOWER + "blocks.{i}.",
            block(named({f"mlp.linear_fc{i}.{{w}}": f"mlp.fc{i}.{{w}}" for i in (1, 2)})),
        ),
        *under("merger.", IMAGE + "merger.", named(NEW_MERGER)),
        *under("deepstack_merger_list.{i}.", IMAGE + "deep.{i}.", named(NEW_MERGER)),
    )

    def _sign(self) -> str:
        return "visual.merger.linear_fc1.weight"

    def fits(self, tiler: Tiler | None, config: Mapping[str, Any]) -> bool:
        return super().fits(tiler, config) and config["encoders"]["image"].get("position_grid") is not None

    @property
    def interleaved(self) -> bool:
        return True

    def _stack(self, vision: Mapping[str, Any]) -> list[int]:
        return [int(layer) for layer in vision["deepstack_visual_indexes"]]

    def _sizes(self, vision: Mapping[str, Any], merge: int, patch: int) -> dict[str, Any]:
        side = math.isqrt(count(vision, "num_position_embeddings"))
        if side**2 != vision["num_position_embeddings"]:
            raise ConfigError(f"num_position_embeddings: got {vision['num_position_embeddings']}; allowed is the square of a whole number")
        return {
            **{"dim": count(vision, "hidden_size"), "hidden_dim": count(vision, "intermediate_size"), "activation": _activation(vision)},
            **{"position_grid": side, "deepstack": self._stack(vision)},
        }

    def _their_sizes(self, image: Mapping[str, Any], merge: int, dim: int) -> dict[str, Any]:
        return {
            **{"hidden_size": image["dim"], "intermediate_size": image["hidden_dim"], "hidden_act": their_activation(image, "Qwen3-VL")},
            **{"num_position_embeddings": (image["position_grid"] or 0) ** 2, "out_hidden_size": dim},
            "deepstack_visual_indexes": list(image["deepstack"]),
        }


def _activation(vision: Mapping[str, Any]) -> str:
    refuse_others(vision, {"hidden_act": ACTIVATIONS}, "our qwen_vision")
    return ACTIVATIONS[vision["hidden_act"]]

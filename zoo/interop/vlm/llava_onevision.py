"""transformers' ``LlavaOnevisionForConditionalGeneration`` <-> our ``vit``, ``llava`` with a vector at the end of rows, ``causal_lm``.

Paper: Li et al. 2024, "LLaVA-OneVision" (arXiv 2408.03326). Reference: transformers 5.17, ``modeling_llava_onevision.py``. Tensors and most
of the config are those of LLaVA-NeXT. The tower's last norm is in the files but not used: the connector reads the last block's output.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from zoo.errors import ConfigError
from zoo.interop.base.image_preprocessing import shared_settings
from zoo.interop.base.transformers_config import refuse_others
from zoo.interop.llava import names as transformers_llava
from zoo.interop.llava.write import MARKER
from zoo.interop.vlm.llava_next import IN_MEMORY, NEWLINE, LlavaNext, pinpoints_of
from zoo.layers.tilers.anyres import AnyRes
from zoo.processors.image import ImageProcessor
from zoo.types import Tiler

TOWER = {  # of the class, if a config has no vision_config
    **{"hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14, "image_size": 384, "num_hidden_layers": 26},
    **{"num_attention_heads": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
DEFAULTS = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
ASPECT = "anyres_max_9"  # of the class
VIDEO_MARKER = "<video>"
POOL = 2  # factor by which features of frames are shrunk


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision: ``anyres`` tiles of a SigLIP tower, several pictures as one tile each, and frames of videos."""

    model_types = ("llava_onevision",)
    architecture = "LlavaOnevisionForConditionalGeneration"
    processor_class = "LlavaOnevisionProcessor"
    template = "chatml"
    tokenizer_words = {"image_token": MARKER, "video_token": VIDEO_MARKER}
    other_markers = {"video_token_index": VIDEO_MARKER}
    side = 384
    grids = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7))

    def fits(self, tiler: Tiler | None, config: Mapping[str, Any]) -> bool:
        return isinstance(tiler, AnyRes) and not super().fits(tiler, config)

    def recognises(self, keys: Collection[str]) -> bool:
        class_token = any(key.endswith("embeddings.class_embedding") for key in keys)
        return not class_token and (NEWLINE in keys or IN_MEMORY in keys) and transformers_llava.recognises(keys)

    def system(self, config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
        vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **(config.get("vision_config") or TOWER)}
        text = {"model_type": "qwen2", **(config.get("text_config") or {})}
        return super().system({**DEFAULTS, **config, "vision_config": vision, "text_config": text}, keys)

    def tiler_options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        aspect = config.get("vision_aspect_ratio", ASPECT)
        found = re.fullmatch(r"anyres_max_([1-9]\d{0,4})", str(aspect))
        if found is None:
            raise ConfigError(f"vision_aspect_ratio: got {aspect!r}; allowed is anyres_max_ with a number of tiles, for example {ASPECT}")
        return {"most_tiles": int(found[1]), "several": "whole", "frame_pool": POOL}

    def images(self, settings: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
        preprocessing, options = super().images(settings, origin)
        return {**preprocessing, "resize": "pad"}, options  # of several pictures; those that are cut are squashed into their canvas

    def config(
        self, image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], processor: ImageProcessor, marker: int
    ) -> dict[str, Any]:
        tower = {"encoders.image.class_token": image["class_token"]}
        refuse_others(tower, {"encoders.image.class_token": (False,)}, f"transformers' {self.architecture} as zoo writes it")
        found = super().config(image, head, language, processor, marker)
        return {**found, "vision_aspect_ratio": f"anyres_max_{_tiler(processor).most_tiles}"}

    def preprocessor(self, processor: ImageProcessor, per_tile: int) -> dict[str, Any]:
        tiler, side = _tiler(processor), {"height": processor.image_size, "width": processor.image_size}
        given = {
            "processor.image.resize": processor.resize,
            "processor.image.tiler.several": "whole" if tiler.together else "cut",
            "processor.image.tiler.frame_pool": tiler.frame_pool,
            "processor.image.fill": processor.fill,
        }
        refuse_others(
            given, dict(zip(given, [("pad",), ("whole",), (POOL,), (None,)], strict=True)), f"transformers' {self.processor_class}"
        )
        return {
            **shared_settings(processor),
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": side,
            **{"do_pad": True, "do_convert_rgb": True},
            "image_grid_pinpoints": pinpoints_of(processor),
        }

    def processor_config(self, config: Mapping[str, Any], per_tile: int, prefix: int) -> dict[str, Any]:
        return {
            "num_image_tokens": per_tile,
            "vision_feature_select_strategy": config["vision_feature_select_strategy"],
            "vision_aspect_ratio": config["vision_aspect_ratio"],
            **self.tokenizer_words,
        }


def _tiler(processor: ImageProcessor) -> AnyRes:
    """Return the tiler.

    Raises:
        ConfigError: it keeps the features of all tiles, which theirs does not.
    """
    tiler = processor.tiler
    assert isinstance(tiler, AnyRes)
    if tiler.most_tiles is None:
        raise ConfigError("processor.image.tiler.most_tiles: null, which transformers' LlavaOnevision does not have; allowed is a number")
    return tiler

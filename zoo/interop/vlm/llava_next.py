"""transformers' ``LlavaNextForConditionalGeneration`` <-> our ``vit``, ``llava`` with a learned vector at the end of rows, ``causal_lm``.

Source: Liu et al. 2024, "LLaVA-NeXT" (https://llava-vl.github.io/blog/2024-01-30-llava-next/). Reference: transformers 5.17,
``modeling_llava_next.py``. Tensors and config are LLaVA's (``zoo/interop/llava``), and one vector and a list of canvases more.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.image_preprocessing import interpolation_of, normalisation_of, shared_settings
from zoo.interop.llava import names as transformers_llava
from zoo.interop.llava.hosted import Hosted
from zoo.interop.vlm.family import Family
from zoo.layers.tilers.anyres import NEXT, AnyRes
from zoo.processors.image import ImageProcessor
from zoo.types import Tiler
from zoo.types.processor import CLIP_MEAN, CLIP_STD
from zoo.types.tiler import Size

NEWLINE, IN_MEMORY, OURS = "image_newline", "model.image_newline", "head.connectors.image.newline"
SIDE = 336  # pixels of a tile of the published models


class LlavaNext(Family):
    """LLaVA-NeXT (LLaVA-1.6): ``anyres`` tiles of a CLIP tower."""

    model_types = ("llava_next",)
    architecture = "LlavaNextForConditionalGeneration"
    processor_class = "LlavaNextProcessor"
    tiler = AnyRes
    template = "vicuna_v1"

    side = SIDE
    grids: Sequence[Size] = NEXT

    def fits(self, tiler: Tiler | None, config: Mapping[str, Any]) -> bool:
        return isinstance(tiler, AnyRes) and tiler.frame_pool is None and not tiler.together

    def recognises(self, keys: Collection[str]) -> bool:
        class_token = any(key.endswith("embeddings.class_embedding") for key in keys)
        return class_token and (NEWLINE in keys or IN_MEMORY in keys) and transformers_llava.recognises(keys)

    def system(self, config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
        names = [key for key in keys if key not in (NEWLINE, IN_MEMORY)]
        parts = transformers_llava.system(config, names)
        if Hosted.of(parts) != Hosted():
            raise ConfigError(
                f"model_type: {self.model_types[0]} is read with an image tower of CLIP or SigLIP and a language model that zoo's "
                "causal_lm is; other parts run in transformers, which zoo offers for model type llava only"
            )
        parts["head"]["connectors"]["image"]["newline"] = True
        return parts

    def images(self, settings: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
        size = settings.get("size") or {}
        side = size.get("shortest_edge", size.get("height")) if isinstance(size, Mapping) else size
        crop = settings.get("crop_size") or {}
        cropped = crop.get("height") if isinstance(crop, Mapping) else crop
        if not isinstance(side, int) or side < 1 or (cropped is not None and cropped != side):
            raise ConfigError(f"{origin}: size: got {size!r} and crop_size {crop!r}; allowed are the same number of pixels in both")
        pinpoints = settings.get("image_grid_pinpoints") or [(rows * self.side, columns * self.side) for rows, columns in self.grids]
        preprocessing = {
            "image_size": side,
            "resize": "squash",
            "interpolation": interpolation_of({"resample": 3, **settings}, origin),
            **normalisation_of({"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), **settings}, origin),
        }
        return preprocessing, {"tiler": {"kind": "anyres", "canvases": _grids(pinpoints, side, origin)}}

    def to_zoo(self, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
        rest = dict(tensors)
        newline = rest.pop(NEWLINE, None)
        newline = rest.pop(IN_MEMORY, None) if newline is None else newline
        if newline is None:
            raise WeightsError(f"transformers -> zoo: the weights do not fit: 1 missing ({NEWLINE})")
        return {**transformers_llava.to_zoo(rest, tied=tied), OURS: newline}

    def from_zoo(self, tensors: Mapping[str, Tensor], language: Mapping[str, Any]) -> dict[str, Tensor]:
        rest = {name: tensor for name, tensor in tensors.items() if name != OURS}
        return {**transformers_llava.from_zoo(rest, language), NEWLINE: tensors[OURS]}

    def config(
        self, image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], processor: ImageProcessor, marker: int
    ) -> dict[str, Any]:
        word = head["connectors"].get("image", "mlp")
        options = {} if isinstance(word, str) else {key: value for key, value in word.items() if key != "newline"}
        plain = {**head, "connectors": {"image": options or "mlp"}}
        prefix = int(image["class_token"]) + image["num_registers"]
        found = transformers_llava.config(image, plain, language, image_token_id=marker, prefix=prefix, hosted=Hosted())
        return {**found, "image_grid_pinpoints": pinpoints_of(processor)}

    def preprocessor(self, processor: ImageProcessor, per_tile: int) -> dict[str, Any]:
        tiler, side = processor.tiler, processor.image_size
        assert isinstance(tiler, AnyRes)
        if tiler.most_tiles is not None:
            raise ConfigError(
                f"processor.image.tiler.most_tiles: got {tiler.most_tiles}, which transformers' LlavaNext does not have; allowed is null"
            )
        return {
            **shared_settings(processor),
            "image_processor_type": "LlavaNextImageProcessor",
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
            **{"do_center_crop": True, "do_pad": True, "do_convert_rgb": True},
            "image_grid_pinpoints": pinpoints_of(processor),
        }

    def processor_config(self, config: Mapping[str, Any], per_tile: int, prefix: int) -> dict[str, Any]:
        return {
            "patch_size": config["vision_config"]["patch_size"],
            "num_additional_image_tokens": prefix,
            "vision_feature_select_strategy": config["vision_feature_select_strategy"],
        }


def _grids(pinpoints: Any, side: int, origin: str) -> list[list[int]]:
    """Return rows and columns of tiles of each canvas, which the config gives in pixels."""
    pairs = pinpoints if isinstance(pinpoints, list | tuple) else []
    whole = [
        [int(height) // side, int(width) // side]
        for height, width in (pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2)
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 and not height % side and not width % side
    ]
    if not whole or len(whole) != len(pairs):
        raise ConfigError(f"{origin}: image_grid_pinpoints: got {str(pinpoints)[:80]}; allowed are pairs of multiples of {side} pixels")
    return whole


def pinpoints_of(processor: ImageProcessor) -> list[list[int]]:
    """Return the canvases of a system's tiler, in pixels."""
    assert isinstance(processor.tiler, AnyRes)
    return [list(canvas) for canvas in processor.tiler.canvases]

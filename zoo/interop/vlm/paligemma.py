"""transformers' ``PaliGemmaForConditionalGeneration`` <-> our ``vit``, ``llava`` with a prefix and one matrix, ``causal_lm``.

Papers: Beyer et al. 2024, "PaliGemma" (arXiv 2407.07726), section 3.1 and figure 2; Steiner et al. 2024, "PaliGemma 2" (arXiv 2412.03555),
whose language model is Gemma 2. Reference: transformers 5.17, ``modeling_paligemma.py``.

Differences: theirs counts positions from 1, ours from 0; rotary positions are relative, so that this changes nothing. Without
``token_type_ids`` theirs lets an answer's tokens see later ones too. Of PaliGemma 2, theirs leaves out the soft limit of the logits
(``final_logit_softcapping``), with which Gemma 2 was trained; this changes probabilities, but no greedy answer.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.image_preprocessing import image_keywords, preprocessor
from zoo.interop.base.rules import named, under
from zoo.interop.base.transformers_config import refuse_others
from zoo.interop.causal_lm import configs, transformers_causal_lm
from zoo.interop.clip import transformers_clip
from zoo.interop.llava import names as transformers_llava
from zoo.interop.vlm.family import Family, tied_words
from zoo.processors.image import ImageProcessor

ORIGIN = "transformers"
PROJECTOR = named({"linear.{w}": "linear.{w}"})
VISION = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14}
BACK_END = "transformers' PaliGemmaForConditionalGeneration"
ONE_WAY = "use_bidirectional_attention"
LANGUAGES = (configs.GEMMA, configs.GEMMA2)  # of PaliGemma and PaliGemma 2


class PaliGemma(Family):
    """PaliGemma: a picture and the question see each other, the answer is causal."""

    model_types = ("paligemma",)
    architecture = "PaliGemmaForConditionalGeneration"
    processor_class = "PaliGemmaProcessor"
    tiler = None
    template = "paligemma"

    def recognises(self, keys: Collection[str]) -> bool:
        return any(key.endswith("multi_modal_projector.linear.weight") for key in keys)

    def system(self, config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
        vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **(config.get("vision_config") or VISION)}
        names = [found["name"] for key in keys if (found := transformers_llava.VISION.fullmatch(key))]
        text = {"model_type": "gemma", **(config.get("text_config") or {})}
        refuse_others({ONE_WAY: text.pop(ONE_WAY, None)}, {ONE_WAY: (None, True)}, "PaliGemma as zoo reads it")
        refuse_others({"text_config.model_type": text["model_type"]}, {"text_config.model_type": LANGUAGES}, "PaliGemma as zoo reads it")
        words = configs.arguments({**text, "tie_word_embeddings": tied_words(config, keys, default=True)})
        return {
            "encoders": {"image": {"name": "vit", **transformers_clip.arguments(vision, names)}},
            "head": {
                "name": "llava",
                "language": {"name": "causal_lm", **words},
                "connectors": {"image": "linear"},
                "feature_layer": None,
                "prefix": True,
            },
        }

    def images(self, settings: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
        size, keywords = image_keywords({"image_processor_type": "SiglipImageProcessor", **settings}, origin)
        return {"image_size": size, **keywords}, {}

    def to_zoo(self, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
        parts = transformers_llava.split_parts(tensors)
        return transformers_llava.in_system(
            {
                "vision": transformers_clip.to_zoo(parts["vision"]),
                "projector": rules.to_zoo(parts["projector"], PROJECTOR, origin=ORIGIN),
                "language": transformers_causal_lm.to_zoo(parts["language"], tied=tied),
            }
        )

    def from_zoo(self, tensors: Mapping[str, Tensor], language: Mapping[str, Any]) -> dict[str, Tensor]:
        parts = transformers_llava.of_system(tensors)
        return {
            **transformers_clip.from_zoo(parts["vision"], prefix="vision_tower.vision_model."),
            **rules.from_zoo(parts["projector"], under("multi_modal_projector.", "", PROJECTOR), origin=ORIGIN),
            **transformers_causal_lm.from_zoo(parts["language"], language, prefix="language_model."),
        }

    def config(
        self, image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], processor: ImageProcessor, marker: int
    ) -> dict[str, Any]:
        word = head["connectors"].get("image", "mlp")
        given = {
            "head.connectors.image.kind": word if isinstance(word, str) else word["kind"],
            "head.feature_layer": head["feature_layer"],
            "encoders.image.class_token": image["class_token"],
            "encoders.image.pool": image["pool"],
        }
        refuse_others(given, dict(zip(given, [("linear",), (None,), (False,), ("none",)], strict=True)), BACK_END)
        text = configs.config(language)
        refuse_others({"head.language": text["model_type"]}, {"head.language": LANGUAGES}, BACK_END)
        vision = {**transformers_clip.config(image), "projection_dim": language["dim"]}
        del vision["architectures"]
        return {
            "vision_config": vision,
            "text_config": {**text, ONE_WAY: True},
            "image_token_index": marker,
            "projection_dim": language["dim"],
            "hidden_size": language["dim"],
            "tie_word_embeddings": language["tied"],
        }

    def preprocessor(self, processor: ImageProcessor, per_tile: int) -> dict[str, Any]:
        if processor.resize != "squash" or processor.crop_fraction != 1:
            raise ConfigError(
                f"processor.image: resize {processor.resize!r} with crop_fraction {processor.crop_fraction}, which {BACK_END} does not "
                "have; allowed is squash with 1"
            )
        return {**preprocessor(processor), "image_processor_type": "SiglipImageProcessor", "image_seq_length": per_tile}

    def processor_config(self, config: Mapping[str, Any], per_tile: int, prefix: int) -> dict[str, Any]:
        return {}

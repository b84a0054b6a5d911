"""Vision Transformers: transformers' ViT and DINOv2, the image towers of its CLIP and SigLIP, and timm's ``VisionTransformer``."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError
from zoo.interop.backbones.timm_directory import describe_timm
from zoo.interop.base.files import CLASSES, GENERATION, IMAGES, TOKENIZERS, TRANSFORMERS
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import image_keywords_of
from zoo.interop.base.placing import EncoderNames, read_encoder, recognised
from zoo.interop.base.recognise import library_config
from zoo.interop.base.source import Source
from zoo.interop.clip import transformers_clip
from zoo.interop.vit import timm_vit, transformers_dinov2, transformers_vit
from zoo.interop.vit.write import MULTI_LABEL, refuse_family, to_timm, to_transformers, vision_parts
from zoo.registry import register

VISION: dict[str, ModuleType] = {  # by model_type
    "vit": transformers_vit,
    "dinov2": transformers_dinov2,
    "dinov2_with_registers": transformers_dinov2,
    **dict.fromkeys(transformers_clip.DEFAULTS, transformers_clip),
}
NAMES = (
    EncoderNames(timm_vit.recognises, timm_vit.to_zoo, timm_vit.CLASSIFIER, timm_vit.classifier_to_zoo),
    EncoderNames(transformers_vit.recognises, transformers_vit.to_zoo, transformers_vit.CLASSIFIER, transformers_vit.classifier_to_zoo),
    EncoderNames(
        transformers_dinov2.recognises, transformers_dinov2.to_zoo, transformers_dinov2.CLASSIFIER, transformers_dinov2.classifier_to_zoo
    ),
    EncoderNames(transformers_clip.is_tower, transformers_clip.to_zoo),
)


@register("format")
class VisionTransformers(Format):
    """Image encoders ``vit`` and their linear classifiers."""

    targets = ("transformers", "timm")
    takes = "image encoders 'vit', alone or with the head 'classifier'"
    model_types = tuple(VISION)
    files = {**TRANSFORMERS, **IMAGES, **GENERATION, **CLASSES, **TOKENIZERS}

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if recognised(NAMES, source.keys) is not None else NO

    def describe(self, source: Source) -> Description:
        """Return the encoder, or a system if there is a classifier; only directories of transformers and timm say enough."""
        if source.directory is not None and (timm := describe_timm(source)) is not None:
            return timm
        config, keys = library_config(source, self), list(source.keys)
        assert source.directory is not None
        arguments = VISION[config["model_type"]].arguments(config, keys)
        encoder = {"name": "vit", **arguments, "preprocessing": image_keywords_of(source.directory)}
        if not any(key.startswith("classifier.") for key in keys):
            return Description({"encoder": encoder})
        return Description({"system": {"name": source.name, **_classifier(config, encoder)}})

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert by the names of the tensors."""
        names = recognised(NAMES, source.keys)
        if names is None:
            raise WeightsError(
                f"{source.origin}: lacks tensors that every Vision Transformer has (it holds {len(source.keys)}); fetch the directory again"
            )
        return read_encoder(names, source, "image", part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return transformers' or timm's files of an image encoder, perhaps with a classifier."""
        parts = vision_parts(model)
        if parts is None:
            return None
        refuse_family(parts, "vit", target)
        return (to_timm if target == "timm" else to_transformers)(parts)


def _classifier(config: Mapping[str, Any], encoder: dict[str, Any]) -> dict[str, Any]:
    problem = config.get("problem_type")
    if problem not in (None, "single_label_classification", MULTI_LABEL):
        raise ConfigError(
            f"problem_type: {problem!r} gives numbers that are no probabilities of classes; our head 'classifier' has softmax and sigmoid: "
            "load the encoder alone with zoo.create_model(NAME, weights=DIR, weights_parts=['encoder'])"
        )
    labels = config.get("id2label") or {}
    names = [str(name) for _, name in sorted(labels.items(), key=lambda pair: int(pair[0]))]
    several = {"multi_label": True} if problem == MULTI_LABEL else {}
    head = {"name": "classifier", **several, "num_classes": len(names) or config.get("num_labels", 2), "class_names": names or None}
    return {"encoders": {"image": encoder}, "head": head, "processor": {"image": {}}}

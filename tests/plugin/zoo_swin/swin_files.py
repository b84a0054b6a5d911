"""Classifiers on Swin in files of their own: ``config.json`` with the model type ``zoo_swin``, and ``model.safetensors``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from zoo.interop.base.files import TRANSFORMERS

from zoo.interop.base.format import CONFIG_SAYS, NO, Description, Export, Format
from zoo.interop.base.source import Source
from zoo.types import is_system

MODEL_TYPE = "zoo_swin"
PLACES = {"swin.": "encoders.image.", "labels.": "head."}  # their prefix -> ours


class SwinFiles(Format):
    """A system of the encoder ``swin`` and the head ``classifier``."""

    targets = ("swin_files",)
    takes = "systems of encoder 'swin' and head 'classifier'"
    files = TRANSFORMERS

    def recognises(self, source: Source) -> float:
        return CONFIG_SAYS if source.model_type == MODEL_TYPE else NO

    def describe(self, source: Source) -> Description:
        config = source.config
        encoder = {"name": "swin", **config["swin"]}
        return Description({"system": {"encoders": {"image": encoder}, "head": {"name": "classifier", **config["labels"]}}})

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        prefix = {"": "", "encoder": "encoders.image."}.get(part, f"{part}.")
        renamed = {_rename(name, PLACES): tensor for name, tensor in source.tensors.items()}
        return {name.removeprefix(prefix): tensor for name, tensor in renamed.items() if name.startswith(prefix)}

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        if not is_system(model) or model.config["encoders"].get("image", {}).get("name") != "swin":
            return None
        config: dict[str, Any] = {"model_type": MODEL_TYPE}
        for key, part in (("swin", model.config["encoders"]["image"]), ("labels", model.config["head"])):
            config[key] = {name: value for name, value in part.items() if name != "name"}
        back = {ours: theirs for theirs, ours in PLACES.items()}
        return Export({"config.json": config}, lambda: {_rename(name, back): tensor for name, tensor in model.state_dict().items()})


def _rename(name: str, prefixes: Mapping[str, str]) -> str:
    old = next(prefix for prefix in prefixes if name.startswith(prefix))
    return prefixes[old] + name.removeprefix(old)

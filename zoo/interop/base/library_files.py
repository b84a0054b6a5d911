"""Config files of transformers and open_clip."""

from pathlib import Path
from typing import Any

from zoo.errors import WeightsError
from zoo.interop.base.image_preprocessing import read_preprocessing
from zoo.interop.base.schemas import checked_model_config
from zoo.storage.outside import read_json_object

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (  # in the order in which open_clip looks for them
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)


def read_library_config(path: Path) -> dict[str, Any]:
    config = read_json_object(path)
    if not {"architecture", "model_type", "model_cfg"} & set(config):
        owner = "open_clip" if path.name == OPEN_CLIP_CONFIG else "transformers"
        raise WeightsError(f"{path}: not a config of {owner} (it has no key model_type); fetch the directory again")
    return config if path.name == OPEN_CLIP_CONFIG else checked_model_config(config, path)


def image_keywords_of(directory: Path) -> dict[str, Any]:
    found = read_preprocessing(str(directory))
    return {} if found is None else {"image_size": found[0], **found[1]}


def read_optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.exists() else {}

"""Config files of transformers, open_clip and PEFT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.image_preprocessing import image_keywords, kind_of, patch_keywords, read_image_settings
from zoo.interop.base.schemas import checked_model_config
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.storage.outside import read_json_object

ADAPTER_CONFIG = "adapter_config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (  # in the order in which open_clip looks for them
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
# Model types of transformers that open_clip's directories may hold too
WHOLE_CLIPS = (
    "clip",
    "siglip",
    "siglip2",
    "metaclip_2",
    "chinese_clip",
)
CODE, QUANTISED = "auto_map", ("quantization_config", "compression_config")  # the second: compressed-tensors before 0.6


def read_library_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json`` or ``open_clip_config.json``.

    Raises:
        WeightsError: the file cannot be read, or is no config of the library.
        ConfigError: the config names code that comes with the model, or the weights are quantised.
    """
    owner = "open_clip" if path.name == OPEN_CLIP_CONFIG else "transformers"
    config = read_json_object(path)
    if not {"architecture", "model_type", "model_cfg"} & set(config):
        raise WeightsError(f"{path}: not a config of {owner} (it has no key model_type); download the directory again")
    if config.get(CODE):
        raise ConfigError(
            f"{path}: {CODE}: {config[CODE]!r} names code, which is never run and may compute something else than the model_type "
            f"{config.get('model_type')!r} of {owner}; choose a model without code, or, if its authors say that both are the same, delete "
            f"{CODE} from a copy of the file"
        )
    refuse_quantised(config, path)
    return config if path.name == OPEN_CLIP_CONFIG else checked_model_config(config, path)


def refuse_quantised(config: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError if a config of transformers says, for the whole model or a part of it, that the weights are quantised."""
    for where, part in (("", config), *((f"{key}.", value) for key, value in config.items() if isinstance(value, Mapping))):
        for key in QUANTISED:
            if settings := part.get(key):
                method = settings.get("quant_method") or settings.get("quant_type") if isinstance(settings, Mapping) else settings
                raise ConfigError(
                    f"{path}: {where}{key}: weights quantised by {method or 'an unnamed method'} are not read; give the directory of the "
                    "unquantised model, or let transformers write it: model.dequantize().save_pretrained(NEW)"
                )


def is_open_clip(directory: Path) -> bool:
    """Return True for a directory of open_clip; if transformers can read it as a CLIP too, it counts as one of transformers."""
    if not (directory / OPEN_CLIP_CONFIG).is_file():
        return False
    path = directory / FOREIGN_CONFIG
    return not path.is_file() or read_library_config(path).get("model_type") not in WHOLE_CLIPS


def find_open_clip_weights(directory: Path) -> Path:
    """Return the file of weights in a directory of open_clip.

    Raises:
        WeightsError: there is none.
    """
    for name in OPEN_CLIP_WEIGHTS:
        if (directory / name).is_file():
            return directory / name
    raise WeightsError(
        f"{directory}: holds {OPEN_CLIP_CONFIG} but no weights ({', '.join(OPEN_CLIP_WEIGHTS[:3])}, ...); download the directory again"
    )


def image_keywords_of(directory: Path) -> dict[str, Any]:
    """Return the image size and preprocessing that a directory describes; empty if it does not."""
    found = read_image_settings(str(directory))
    if found is None:
        return {}
    if kind_of(found[0])[0] == "Siglip2":
        return patch_keywords(*found)
    size, keywords = image_keywords(*found)
    return {"image_size": size, **keywords}


def read_optional(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file.

    Raises:
        WeightsError: the file cannot be read or holds something else.
    """
    return read_json_object(path) if path.exists() else {}

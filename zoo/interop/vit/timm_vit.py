"""timm's ``VisionTransformer``, and its ``NaFlexVit`` of SigLIP 2's form, <-> our ``vit``.

Reference: timm 1.0, ``vision_transformer.py``, ``naflexvit.py`` and ``attention_pool.py``. Meta's own files of DINOv2 are read too,
and lose their mask token, which replaces hidden patches in pre-training. If timm gives the class token no position
(``no_embed_class``), ours gets a position of zeros. An encoder does not take a classifier (``head``): the caller drops it by name,
``drop=CLASSIFIER``, else it is an error.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, named, under
from zoo.interop.clip.naflex import convolution_of, linear_of

ORIGIN = "timm"
CLASSIFIER = ("head",)

BLOCK = named(
    {
        "norm1.{w}": "norm1.{w}",
        "attn.qkv.{w}": "attention.qkv.{w}",
        "attn.proj.{w}": "attention.out.{w}",
        "ls1.gamma": "scale1.scale",
        "norm2.{w}": "norm2.{w}",
        "mlp.fc1.{w}": "mlp.fc1.{w}",
        "mlp.fc2.{w}": "mlp.fc2.{w}",
        "ls2.gamma": "scale2.scale",
    }
)
POOL = named(
    {
        "latent": "probe",
        "q.{w}": "attention.query.{w}",
        "kv.{w}": "attention.key_value.{w}",
        "proj.{w}": "attention.out.{w}",
        "norm.{w}": "norm.{w}",
        "mlp.fc1.{w}": "mlp.fc1.{w}",
        "mlp.fc2.{w}": "mlp.fc2.{w}",
    }
)
BODY = [
    *named(
        {
            "patch_embed.proj.{w}": "patch.project.{w}",
            "reg_token": "registers",
            "norm_pre.{w}": "pre_norm.{w}",
            "norm.{w}": "norm.{w}",
            "fc_norm.{w}": "pool_norm.{w}",
        }
    ),
    *under("blocks.{i}.", "blocks.{i}.", BLOCK),
    *under("attn_pool.", "attention_pool.", POOL),
]
EMBEDDED = named({"cls_token": "class_token", "pos_embed": "positions"})


def _add_position(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    token, positions = tensors
    return [token, torch.cat([torch.zeros_like(token), positions], dim=1)]  # [1, 1 + patches, dim]


def _fold_position(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    token, positions = tensors
    return [token + positions[:, :1], positions[:, 1:]]


NOT_EMBEDDED = [Rule(("cls_token", "pos_embed"), ("class_token", "positions"), _add_position, _fold_position)]
SQUARE = Rule(  # of NaFlexVit: rows and columns of the position table are axes of their own
    ("embeds.pos_embed",),
    ("positions",),
    lambda t: [t[0].flatten(1, 2)],
    lambda t: [t[0].unflatten(1, (math.isqrt(t[0].shape[1]),) * 2)],
)


def _patches_to_zoo(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return [convolution_of(tensors[0]) if tensors[0].ndim == 2 else tensors[0]]


NAFLEX = [  # of NaFlexVit without prefix tokens, as SigLIP 2 is: in memory a linear layer over patches, in files perhaps a convolution
    Rule(("embeds.proj.weight",), ("patch.project.weight",), _patches_to_zoo, lambda t: [linear_of(t[0])]),
    *named({"embeds.proj.bias": "patch.project.bias"}),
    SQUARE,
    *BODY,
]
DINOV2 = named(  # Meta's own names, in the files that timm's dinov2 rows download
    {
        "register_tokens": "registers",
        "blocks.{i}.mlp.w12.{w}": "blocks.{i}.mlp.fc1.{w}",
        "blocks.{i}.mlp.w3.{w}": "blocks.{i}.mlp.fc2.{w}",
    }
)
HEAD = named({"head.{w}": "linear.{w}"})


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a timm ``VisionTransformer`` with learned positions."""
    keys = set(keys)
    plain, any_size = ({"patch_embed.proj.weight", "pos_embed"}, {"embeds.proj.weight", "embeds.pos_embed"})
    return "blocks.0.attn.qkv.weight" in keys and (plain <= keys or any_size <= keys)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict of timm to that of our ``vit`` for a square image.

    Args:
        drop: names to leave out with all below them, for example ``head``.

    Raises:
        WeightsError: a tensor has no place in our encoder.
    """
    if "embeds.pos_embed" in tensors:
        return rules.to_zoo(tensors, NAFLEX, origin=ORIGIN, drop=drop)
    positions = tensors.get("pos_embed")
    is_grid = positions is not None and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]  # so no row for a class token
    table = NOT_EMBEDDED if is_grid and "cls_token" in tensors else EMBEDDED
    return rules.to_zoo(tensors, [*BODY, *table, *DINOV2], origin=ORIGIN, drop=["mask_token", *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, no_embed_class: bool = False, any_size: bool = False) -> dict[str, Tensor]:
    """Convert the state dict of our ``vit`` to that of timm, without classifier.

    Args:
        no_embed_class: timm's option of that name; the class token's position is then added to the token itself.
        any_size: True makes a ``NaFlexVit``, which takes lists of patches; only without class token and registers.

    Raises:
        WeightsError: a tensor has no place in their model.
    """
    if any_size:
        return rules.from_zoo(tensors, NAFLEX, origin=ORIGIN)
    table = NOT_EMBEDDED if no_embed_class and "class_token" in tensors else EMBEDDED
    return rules.from_zoo(tensors, [*BODY, *table], origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert ``head.*`` of a whole model's state dict to ``linear.*`` of our head; empty if there is none."""
    return rules.to_zoo({name: t for name, t in tensors.items() if name.startswith("head.")}, HEAD, origin=ORIGIN)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert ``linear.*`` of our head to ``head.*``."""
    return rules.from_zoo(tensors, HEAD, origin=ORIGIN)

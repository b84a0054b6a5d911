"""transformers' ``CLIPModel`` and ``SiglipModel`` <-> our system of ``vit``, ``text`` and ``clip``.

References: transformers 5.17, ``modeling_clip.py`` and ``modeling_siglip.py``. For these two the names in memory and in saved
files are the same; files of older releases also hold the buffers ``position_ids``, which are no weights and are left out.
"""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from zoo.convert import rules
from zoo.convert.rules import joined, lifted, named, scalar, split, under

ORIGIN = "transformers"
OLD_BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")

BLOCK = [
    joined(["self_attn.q_proj.{w}", "self_attn.k_proj.{w}", "self_attn.v_proj.{w}"], "attention.qkv.{w}"),
    *named(
        {
            "self_attn.out_proj.{w}": "attention.out.{w}",
            "layer_norm1.{w}": "norm1.{w}",
            "layer_norm2.{w}": "norm2.{w}",
            "mlp.fc1.{w}": "mlp.fc1.{w}",
            "mlp.fc2.{w}": "mlp.fc2.{w}",
        }
    ),
]
POOL = [  # of SigLIP's image tower; torch's MultiheadAttention packs q, k, v
    split("attention.in_proj_{w}", ["attention.query.{w}", "attention.key_value.{w}"], shares=[1, 2]),
    *named(
        {
            "probe": "probe",
            "attention.out_proj.{w}": "attention.out.{w}",
            "layernorm.{w}": "norm.{w}",
            "mlp.fc1.{w}": "mlp.fc1.{w}",
            "mlp.fc2.{w}": "mlp.fc2.{w}",
        }
    ),
]
VISION = [
    lifted("embeddings.class_embedding", "class_token", axes=2),
    lifted("embeddings.position_embedding.weight", "positions"),
    *named(
        {
            "embeddings.patch_embedding.{w}": "patch.project.{w}",
            "pre_layrnorm.{w}": "pre_norm.{w}",  # sic
            "post_layernorm.{w}": "norm.{w}",
        }
    ),
    *under("encoder.layers.{i}.", "blocks.{i}.", BLOCK),
    *under("head.", "attention_pool.", POOL),
]
TEXT = [
    *named(
        {
            "embeddings.token_embedding.weight": "embedding.weight",
            "embeddings.position_embedding.weight": "positions",
            "final_layer_norm.{w}": "norm.{w}",
        }
    ),
    *under("encoder.layers.{i}.", "blocks.{i}.", BLOCK),
]
TOWERS = [*under("vision_model.", "encoders.image.", VISION), *under("text_model.", "encoders.text.", TEXT)]
CLIP = [
    *TOWERS,
    *named({"visual_projection.weight": "head.projections.image.weight", "text_projection.weight": "head.projections.text.weight"}),
    scalar("logit_scale", "head.logit_scale"),
]
SIGLIP = [
    *TOWERS,
    *named({"text_model.head.{w}": "head.projections.text.{w}"}),
    scalar("logit_scale", "head.logit_scale", their_shape=(1,)),
    scalar("logit_bias", "head.logit_bias", their_shape=(1,)),
]


def recognises(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a ``CLIPModel`` or ``SiglipModel`` (not of one of their towers)."""
    keys = set(keys)
    towers = {"vision_model.embeddings.patch_embedding.weight", "text_model.embeddings.token_embedding.weight"} <= keys
    return towers and ("visual_projection.weight" in keys or "text_model.head.weight" in keys)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """State dict of either model, as it is in memory or in a file, to the state dict of our system.

    Raises:
        WeightsError: tensors that our system has no place for.
    """
    table = SIGLIP if "logit_bias" in tensors else CLIP
    return rules.to_zoo(tensors, table, origin=ORIGIN, drop=[*OLD_BUFFERS, *drop])


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of our system to that of ``SiglipModel`` where the head has a bias for the sigmoid loss, else ``CLIPModel``.

    Raises:
        WeightsError: tensors that their model has no place for.
    """
    return rules.from_zoo(tensors, SIGLIP if "head.logit_bias" in tensors else CLIP, origin=ORIGIN)

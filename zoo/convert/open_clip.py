"""OpenAI's and open_clip's CLIP with a Vision Transformer <-> our system of ``vit``, ``text`` and ``clip``.

References: openai/CLIP ``model.py``; open_clip ``model.py``, ``CLIP``. Both keep the same names. Of theirs we take the class
token as pooling, learned positions and linear projections without bias; what else a checkpoint holds is an error.
"""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from zoo.convert import rules
from zoo.convert.rules import lifted, named, scalar, transposed, under

ORIGIN = "open_clip"
OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")  # facts, not weights, in OpenAI's archives

BLOCK = named(
    {
        "ln_1.{w}": "norm1.{w}",
        "attn.in_proj_{w}": "attention.qkv.{w}",
        "attn.out_proj.{w}": "attention.out.{w}",
        "ln_2.{w}": "norm2.{w}",
        "mlp.c_fc.{w}": "mlp.fc1.{w}",
        "mlp.c_proj.{w}": "mlp.fc2.{w}",
        "ls_1.gamma": "scale1.scale",
        "ls_2.gamma": "scale2.scale",
    }
)
VISION = [
    lifted("class_embedding", "class_token", axes=2),
    lifted("positional_embedding", "positions"),
    *named({"conv1.weight": "patch.project.weight", "ln_pre.{w}": "pre_norm.{w}", "ln_post.{w}": "norm.{w}"}),
    *under("transformer.resblocks.{i}.", "blocks.{i}.", BLOCK),
]
TEXT = [
    *named({"token_embedding.weight": "embedding.weight", "positional_embedding": "positions", "ln_final.{w}": "norm.{w}"}),
    *under("transformer.resblocks.{i}.", "blocks.{i}.", BLOCK),
]
RULES = [
    *under("visual.", "encoders.image.", VISION),
    *under("", "encoders.text.", TEXT),
    transposed("visual.proj", "head.projections.image.weight"),
    transposed("text_projection", "head.projections.text.weight"),
    scalar("logit_scale", "head.logit_scale"),
    scalar("logit_bias", "head.logit_bias"),
]


def recognises(keys: Iterable[str]) -> bool:
    """Whether these are the keys of such a CLIP; its ResNet has others."""
    return {"visual.class_embedding", "visual.conv1.weight", "token_embedding.weight", "text_projection"} <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """State dict of open_clip, or of an archive of OpenAI's, to the state dict of our system.

    Raises:
        WeightsError: tensors that our system has no place for.
    """
    return rules.to_zoo(tensors, RULES, origin=ORIGIN, drop=[*OPENAI_SCALARS, *drop])


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of our system to that of open_clip.

    Raises:
        WeightsError: tensors that their CLIP has no place for.
    """
    return rules.from_zoo(tensors, RULES, origin=ORIGIN)

"""Meta's and Mistral's own files of LLaMA models (``consolidated.00.pth``) -> our ``causal_lm``.

Reference: meta-llama/llama ``model.py``, which turns adjacent pairs of channels; the rows of q and k are put into the order of halves.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from zoo.interop.base import rules
from zoo.interop.base.rules import named, under
from zoo.interop.causal_lm.gguf_names import joined_pairs
from zoo.interop.causal_lm.transformers_causal_lm import stacked, without_copy

ORIGIN = "Meta's LLaMA"
OLD_BUFFERS = ("rope.freqs",)

MODEL = named({"tok_embeddings.weight": "embedding.weight", "norm.weight": "norm.weight", "output.weight": "lm_head.weight"})
BLOCK = [
    stacked(["feed_forward.w1.{w}", "feed_forward.w3.{w}"], "mlp.fc1.{w}", (1, 1)),
    *named(
        {
            "attention.wo.weight": "attention.out.weight",
            "feed_forward.w2.weight": "mlp.fc2.weight",
            "attention_norm.weight": "norm1.weight",
            "ffn_norm.weight": "norm2.weight",
        }
    ),
]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the names of Meta's tensors."""
    return {"tok_embeddings.weight", "layers.0.attention.wq.weight"} <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor], *, head_dim: int, tied: bool = False) -> dict[str, Tensor]:
    """Convert the tensors of a file to those of our ``causal_lm``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    projections = joined_pairs(("attention.wq.{w}", "attention.wk.{w}", "attention.wv.{w}"), head_dim)
    table = [*MODEL, *under("layers.{i}.", "blocks.{i}.", [projections, *BLOCK])]
    return without_copy(rules.to_zoo(tensors, table, origin=ORIGIN, drop=OLD_BUFFERS), tied, ORIGIN)

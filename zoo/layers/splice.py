"""Features of other modalities put among the vectors of token ids, where their placeholders stand.

Paper: Liu et al. 2023, "Visual Instruction Tuning" (arXiv 2304.08485), section 4.1. Reference: transformers ``modeling_llava.py``.

A row of token ids with an image that its connector makes three tokens of, and the features of two such images in the batch::

    token_ids    12   -200 -200 -200   7    9          -200 is PLACEHOLDER_IDS["image"]
    vectors      e12   f0   f1   f2    e7   e9         f: the next real tokens of the features, in order
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError
from zoo.types import PLACEHOLDER_IDS


def splice(
    token_ids: Int[Tensor, "batch length"],
    vectors: Float[Tensor, "batch length dim"],
    features: Mapping[str, tuple[Float[Tensor, "_ _ dim"], Bool[Tensor, "_ _"]]],
    ids: Sequence[str] = (),
) -> Float[Tensor, "batch length dim"]:
    """Replace the vectors at placeholders by features; gradients reach both.

    Args:
        token_ids: with the numbers of ``PLACEHOLDER_IDS`` where other modalities stand, as many in a run as an item has real tokens.
        vectors: of the token ids; what they hold at placeholders is not read.
        features: by modality the tokens [items, num_tokens, dim] of all items of the batch in order, and their mask.
        ids: names of the conversations, for messages.

    Raises:
        DataError: placeholders and features differ in number, or there are placeholders of a modality without features.
    """
    for modality, placeholder in PLACEHOLDER_IDS.items():
        here = token_ids == placeholder
        if modality not in features:
            _refuse_orphans(modality, here, ids)
            continue
        tokens, mask = features[modality]
        if token_ids.is_meta:  # nothing can be counted; gradients flow all the same
            vectors = vectors + tokens.sum((0, 1)).to(vectors.dtype)
            continue
        _refuse_other_counts(modality, here.sum(1), mask.sum(1), ids)
        vectors = vectors.masked_scatter(here[..., None], tokens[mask].to(vectors.dtype))
    return vectors


def _refuse_orphans(modality: str, here: Bool[Tensor, "batch length"], ids: Sequence[str]) -> None:
    if here.is_meta or not here.any():
        return
    row = int(here.any(1).int().argmax())
    raise DataError(
        f"conversation {_name(row, ids)} has {int(here[row].sum())} placeholders of {modality}, but the batch has no features of "
        f"{modality}; the system needs an encoder of it (encoder@system.encoders.{modality}=NAME)"
    )


def _refuse_other_counts(modality: str, wanted: Int[Tensor, " batch"], given: Int[Tensor, " _"], ids: Sequence[str]) -> None:
    """Raise DataError unless each row's placeholders are as many as the tokens of the next whole items."""
    ends = torch.cat([given.new_zeros(1), given.cumsum(0)])
    reached = wanted.cumsum(0)
    whole = torch.isin(reached, ends)
    if bool(whole.all()) and int(reached[-1:].sum()) == int(ends[-1]):
        return
    wrong = torch.where(whole, 0, 1)
    row = int(wrong.argmax()) if bool(wrong.any()) else len(wanted) - 1
    before = int(reached[row - 1]) if row else 0
    left = given[ends[:-1] >= before]
    raise DataError(
        f"conversation {_name(row, ids)} has {int(wanted[row])} placeholders of {modality}, but its items and those after it give "
        f"{left.tolist()[:8]} tokens ({int(ends[-1])} in the batch for {int(reached[-1])} placeholders); each item needs as many "
        f"placeholders as the connector makes tokens of it, and each placeholder an item"
    )


def _name(row: int, ids: Sequence[str]) -> str:
    return f"{row} ({ids[row]})" if row < len(ids) else str(row)

"""Splicing of image and audio features into a sequence of token embeddings, at their placeholder tokens.

Paper: Liu et al. 2023, "Visual Instruction Tuning" (arXiv 2304.08485), section 4.1. Reference: transformers ``modeling_llava.py``.

Example: a row with one image whose connector returns three tokens (e: token embeddings, f: features)::

    token_ids    12   -200 -200 -200   7    9          -200 is PLACEHOLDER_IDS["image"]
    vectors      e12   f0   f1   f2    e7   e9         features are consumed in the order of the batch
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError
from zoo.types import PLACEHOLDER_IDS, on_host, send


def splice(
    token_ids: Int[Tensor, "batch length"],
    vectors: Float[Tensor, "batch length dim"],
    features: Mapping[str, tuple[Float[Tensor, "_ _ dim"], Bool[Tensor, "_ _"]]],
    ids: Sequence[str] = (),
) -> Float[Tensor, "batch length dim"]:
    """Replace the vectors at placeholders by features; gradients flow to both.

    Args:
        token_ids: token ids with ``PLACEHOLDER_IDS`` at the places of other modalities, one placeholder per real feature token.
        vectors: embeddings of the token ids; their values at placeholders are ignored.
        features: by modality, the features [items, num_tokens, dim] of all items in the order of the batch, and their mask, True at
            real tokens.
        ids: names of the conversations, used in error messages.

    Raises:
        DataError: the numbers of placeholders and of feature tokens differ, or a modality has placeholders but no features.
    """
    for modality, placeholder in PLACEHOLDER_IDS.items():
        here = on_host(token_ids) == placeholder  # the host must know the counts; it knows the ids without waiting for a device
        if modality not in features:
            _refuse_orphans(modality, here, ids)
            continue
        tokens, mask = features[modality]
        if token_ids.is_meta:  # meta tensors cannot be counted or masked; the sum keeps the features in the autograd graph
            vectors = vectors + tokens.sum((0, 1)).to(vectors.dtype)
            continue
        real = on_host(mask)
        _refuse_other_counts(modality, here.sum(1), real.sum(1), ids)
        places, sources = (send(each.flatten().nonzero()[:, 0], vectors.device) for each in (here, real))
        found = tokens.flatten(0, 1).index_select(0, sources).to(vectors.dtype)
        vectors = vectors.flatten(0, 1).index_copy(0, places, found).unflatten(0, token_ids.shape)
    return vectors


def _refuse_orphans(modality: str, here: Bool[Tensor, "batch length"], ids: Sequence[str]) -> None:
    if here.is_meta or not here.any():
        return
    row = int(here.any(1).int().argmax())
    raise DataError(
        f"conversation {_name(row, ids)} has {int(here[row].sum())} placeholders of {modality}, but the batch has no features of "
        f"{modality}; add an encoder of this modality to the system (encoder@system.encoders.{modality}=NAME)"
    )


def _refuse_other_counts(modality: str, wanted: Int[Tensor, " batch"], given: Int[Tensor, " _"], ids: Sequence[str]) -> None:
    """Raise DataError unless each row has as many placeholders as the next whole items have tokens."""
    # A row may hold several items, so each row's cumulated placeholders must equal a cumulated number of item tokens.
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
        f"conversation {_name(row, ids)} has {int(wanted[row])} placeholders of {modality}, but its items and those after it have "
        f"{left.tolist()[:8]} tokens ({int(ends[-1])} tokens and {int(reached[-1])} placeholders in the batch); give each item as many "
        f"placeholders as the connector returns tokens for it"
    )


def _name(row: int, ids: Sequence[str]) -> str:
    return f"{row} ({ids[row]})" if row < len(ids) else str(row)

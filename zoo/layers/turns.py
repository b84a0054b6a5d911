"""Turns: the order in which the tokens of a text are predicted, as one number per token, and the attention that follows from it.

Paper: Yang et al. 2019 (XLNet, arXiv 1906.08237), sections 2.2 and 2.3. Reference: zihangdai/xlnet, ``data_utils.py``, ``_local_perm``.

Tokens with a turn above 0 are predicted, in rising order. Tokens with turn 0 are the context that is given; with different turns below 0,
the context has an order too. For the text ``a b c d`` of which first ``d`` and then ``b`` are predicted, the turns are ``0 2 0 1``::

    content stream (rows are queries)      query stream, of the predicted tokens
        a b c d                                 a b c d
    a   1 . 1 .
    b   1 1 1 1                             b   1 . 1 1
    c   1 . 1 .
    d   1 . 1 1                             d   1 . 1 .

A token of the content stream sees itself and all tokens of the same turn or an earlier one; the query stream, which must not see the token
that it predicts, sees earlier turns only.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.types import follow, on_host, send

PADDING = -(2**31)  # turn of padding; nothing sees it


def are_real(turns: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """Return True at tokens that are no padding."""
    return follow(lambda values: values > PADDING, turns)


def seen_by_content(turns: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length length"]:
    """Return the attention mask of the content stream; rows are queries."""
    return (turns[:, None, :] <= turns[:, :, None]) & are_real(turns)[:, None, :]


def seen_by_queries(turns: Int[Tensor, "batch length"], places: Int[Tensor, "batch queries"]) -> Bool[Tensor, "batch queries length"]:
    """Return the attention mask of the query stream, whose queries stand at ``places``; the first turn of a text may see nothing."""
    return (turns[:, None, :] < turns.gather(1, places)[:, :, None]) & are_real(turns)[:, None, :]


def predicted_places(turns: Int[Tensor, "batch length"]) -> tuple[Int[Tensor, "batch queries"], Bool[Tensor, "batch queries"]]:
    """Return the positions of the predicted tokens of each row, in the order of the text.

    Rows with fewer of them than others are filled with positions of other tokens, each at most once.

    Returns:
        The positions, and True at those of predicted tokens. On the meta device, where turns have no values, all positions.
    """
    if turns.is_meta:
        return torch.empty_like(turns), torch.empty_like(turns, dtype=torch.bool)
    known = on_host(turns) > 0
    most = int(known.sum(1).max()) if known.numel() else 0
    places = torch.argsort(known.int(), dim=1, descending=True, stable=True)[:, :most]
    return send(places, turns.device), send(known.gather(1, places), turns.device)

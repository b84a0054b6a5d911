"""Positions on three axes, time, row and column, of texts with pictures and videos (M-RoPE), and the marks that they are computed from.

Papers: Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191), section 2.1 and figure 3; Bai et al. 2025, "Qwen2.5-VL" (arXiv 2502.13923), section
2.1.2, for the time of videos. Reference: transformers 5.17 ``modeling_qwen2_vl.py`` (``get_rope_index``).

A word has the same position on all three axes. The tokens of a picture share the time; rows and columns count from it. The text behind a
picture continues after its longest side. With a picture P of 2 x 3 tokens::

    tokens   a  b  P  P  P  P  P  P  c  d
    marks    0  0  1  3  3  2  3  3  0  0
    time     0  1  2  2  2  2  2  2  5  6
    row      0  1  2  2  2  3  3  3  5  6
    column   0  1  2  3  4  2  3  4  5  6

The pictures of a video follow one another without a word between them. Rows and columns count from the same start in each; the mark of a
picture's first token holds the number of time steps since the picture before. With two pictures of 1 x 2 tokens, two steps apart::

    tokens   a  P  P  P  P  b
    marks    0  1  3  6  3  0
    time     0  1  1  3  3  4
    row      0  1  1  1  1  4
    column   0  1  2  1  2  4

Marks are small numbers, so that they can be a channel of the input vectors in any type: bfloat16 holds no position above 256 exactly. Only
time steps above 252 are rounded there, by less than 0.4 %.

Where we differ: text behind a video continues after the largest of time, row and column, as in the paper and in the training of the
published models. transformers 5.17 leaves out the time, so that it agrees only with videos that are no longer than high or wide.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.layers.packing import Packing
from zoo.types import on_host, send

WORD, FIRST, ROW, NEXT = 0, 1, 2, 3  # marks: a word; first token of a picture, first of a further row, next in its row
LATER = 4  # mark of the first token of a video's further picture, plus the time steps since the picture before
AXES = 3


def picture_marks(
    grids: Int[Tensor, "pictures 2"], device: torch.device, steps: Int[Tensor, " pictures"] | None = None
) -> list[Int[Tensor, " _"]]:
    """Return the marks of the tokens of each picture, row by row.

    Args:
        grids: rows and columns of tokens of each picture.
        device: device of the marks.
        steps: time steps of each picture since the picture before it of the same video; -1 for stills and the first of a video. None: all
            are stills.
    """
    found = []
    known = [-1] * len(grids) if steps is None else on_host(steps).tolist()
    for (rows, columns), step in zip(on_host(grids).tolist(), known, strict=True):
        marks = torch.full((rows, columns), NEXT, device="cpu")
        marks[:, 0] = ROW
        marks[0, 0] = FIRST if step < 0 else LATER + step
        found.append(send(marks.flatten(), device))
    return found


def picture_positions(
    marks: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"] | None = None
) -> tuple[Int[Tensor, "3 batch length"], Int[Tensor, " batch"]]:
    """Return the positions of the tokens, and the position after the last token of each row.

    Args:
        marks: of the tokens.
        real: True at real tokens; padding, on either side, gets a position that nothing reads. None: all are real.
    """
    index = torch.arange(marks.shape[1], device=marks.device).expand(marks.shape)
    inside, begins, later = marks > WORD, marks == FIRST, marks >= LATER
    column = index - _latest(index, begins | later | (marks == ROW))
    rows = (marks == ROW).cumsum(1)
    row = rows - rows.gather(1, _latest(index, begins | later))
    passed = ((marks - LATER) * later).cumsum(1)
    time = passed - passed.gather(1, _latest(index, begins))
    follows = inside & ~begins  # the token continues the picture of the token before it
    last = inside & ~F.pad(follows[:, 1:], (0, 1))
    steps = torch.where(inside, (torch.maximum(torch.maximum(row, column), time) + 1) * last, 1)
    steps = steps if real is None else steps * real
    ends = steps.cumsum(1)
    start = ends - steps
    positions = torch.stack([start + time * inside, start + row * inside, start + column * inside])
    return positions, ends[:, -1]


def list_positions(marks: Float[Tensor, " total"], layout: Packing) -> Int[Tensor, "3 total"]:
    """Return the positions of the tokens of a packed list, whose rows have no padding on the left."""
    rows = layout.unpack(marks[:, None])[..., 0].long()
    return picture_positions(rows)[0].flatten(1)[:, layout.index]


def _latest(index: Int[Tensor, "batch length"], here: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Return for each token the index of the latest token, itself included, that is marked; 0 before the first one."""
    return (index * here).cummax(1).values

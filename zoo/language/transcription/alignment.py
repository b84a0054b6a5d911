"""Times of tokens in a recording, by dynamic time warping over the decoder's cross-attention.

Reference: openai-whisper ``timing.py``, ``find_alignment``, ``median_filter`` and ``dtw_cpu``. Where we differ: the warping is computed
diagonal by diagonal in numpy, because a diagonal's cells depend only on the two diagonals before, so that no compiler is needed; frames
to which all tokens attend equally, such as the last one of a recording, count as 0, while the reference divides by zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.rules import TOKENS_PER_SECOND
from zoo.layers.memory import Memory

FILTER_WIDTH = 7  # encoder tokens of 20 ms: 140 ms
DIAGONAL, DOWN, RIGHT = 0, 1, 2  # steps to the next token and frame, the next token, the next frame


@dataclass(frozen=True)
class TokenTimes:
    """Times and probabilities of the tokens of a text.

    Attributes:
        seconds: start of each token, and finally the end of the text, in seconds from the beginning of the window.
        probabilities: probability of each token; one value fewer than ``seconds``.
    """

    seconds: Float[np.ndarray, " tokens_and_end"]
    probabilities: list[float]


@torch.inference_mode()
def align(recogniser: Recogniser, memory: Memory, text_ids: Sequence[int], *, language: str, frames: int) -> TokenTimes:
    """Compute the times of a window's tokens.

    Args:
        memory: cross-attention keys and values of this window.
        text_ids: text token ids, without special tokens.
        frames: number of frames of the recording in the window; attention to the padding after them is ignored.
    """
    symbols, decoder = recogniser.symbols, recogniser.decoder
    start = symbols.start(language, recogniser.settings.task)
    ids = torch.tensor([[*start, symbols.no_timestamps, *text_ids, symbols.eot]], device=recogniser.device)
    first = len(start)  # the position that predicts the first text token
    scores = decoder.logits(decoder.states(ids, memory)[0, first : first + len(text_ids)])[:, : symbols.eot]
    probabilities = scores.softmax(-1).gather(1, ids[0, first + 1 : -1, None])[:, 0].tolist()
    every = decoder.cross_attention(ids, memory)[:, 0]  # [depth, heads, L, N]
    chosen = torch.stack([every[layer, head] for layer, head in recogniser.alignment_heads])[..., : frames // 2]
    weights = chosen.float().softmax(-1)  # [heads, L, N]
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    standard = ((weights - mean) / deviation).nan_to_num(0.0)  # 0 / 0 where all tokens attend equally: no information
    weights = median_filter(standard, FILTER_WIDTH).mean(0)[first:-1]
    rows, columns = warp(-weights.double().cpu().numpy())
    begins = np.diff(rows, prepend=-1) > 0
    return TokenTimes(columns[begins] / TOKENS_PER_SECOND, probabilities)


def median_filter(x: Float[Tensor, "*batch length"], width: int) -> Float[Tensor, "*batch length"]:
    """Apply a median filter along the last axis, with reflection at the ends; rows too short for the window are returned unchanged.

    Args:
        width: odd number of values per window.
    """
    around, length = width // 2, x.shape[-1]
    if length <= around:
        return x
    padded = F.pad(x.reshape(1, -1, length), (around, around), mode="reflect")[0]
    lanes = [padded[:, i : i + length] for i in range(width)]
    for turn in range(width):  # odd-even transposition sort of all windows at once; several times as fast as torch.sort
        for i in range(turn % 2, width - 1, 2):
            lanes[i], lanes[i + 1] = torch.minimum(lanes[i], lanes[i + 1]), torch.maximum(lanes[i], lanes[i + 1])
    return lanes[around].reshape(x.shape)


def warp(costs: Float[np.ndarray, "rows columns"]) -> tuple[Int[np.ndarray, " steps"], Int[np.ndarray, " steps"]]:
    """Return the cheapest monotonic path from the first cell to the last (dynamic time warping), as its rows and its columns.

    Sums are fp32 and ties step to the right, as in the reference.
    """
    num_rows, num_columns = costs.shape
    came = np.zeros((num_rows + 1, num_columns + 1), dtype=np.int8)
    flat_came, flat_costs = came.reshape(-1), np.pad(costs, ((1, 0), (1, 0))).reshape(-1)
    before = np.full(num_rows + 1, np.inf, dtype=np.float32)  # sums along a diagonal, by row from 1; row 0 and column 0 are the border
    last = before.copy()
    before[0] = 0.0
    for diagonal in range(2, num_rows + num_columns + 1):
        first, end = max(1, diagonal - num_columns), min(num_rows, diagonal - 1) + 1
        cells = slice(diagonal + first * num_columns, diagonal + (end - 1) * num_columns + 1, num_columns)
        both, down, right = before[first - 1 : end - 1], last[first - 1 : end - 1], last[first:end]
        goes_both, goes_down = (both < down) & (both < right), (down < both) & (down < right)
        flat_came[cells] = np.where(goes_both, DIAGONAL, np.where(goes_down, DOWN, RIGHT))
        sums = np.full(num_rows + 1, np.inf, dtype=np.float32)
        sums[first:end] = flat_costs[cells] + np.where(goes_both, both, np.where(goes_down, down, right))
        before, last = last, sums
    return _traced(came)


def _traced(came: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trace the path back from the last cell; returns its rows and columns in forward order."""
    came[:, 0], came[0] = DOWN, RIGHT
    row, column = (size - 1 for size in came.shape)
    path = []
    while row or column:
        path.append((row - 1, column - 1))
        step = came[row, column]
        row, column = row - (step != RIGHT), column - (step != DOWN)
    rows, columns = np.array(path[::-1], dtype=np.int64).T
    return rows, columns

"""Pre-net of Tacotron and Tacotron 2: small layers with dropout, applied to the frame that is fed back to the decoder.

Papers: Wang et al. 2017 (arXiv 1703.10135), table 1; Shen et al. 2017 (arXiv 1712.05884), section 2.2, where the dropout stays on in
synthesis. References: NVIDIA/tacotron2 ``model.py``, keithito/tacotron ``modules.py``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

FRESH = 100  # frames whose masks are drawn at once: one call per frame would be slow


class Prenet(nn.Module):
    """A linear layer, ReLU and dropout for each width."""

    def __init__(self, in_dim: int, widths: Sequence[int], *, dropout: float = 0.5, bias: bool = False) -> None:
        super().__init__()
        self.dropout, self.widths = dropout, tuple(widths)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in zip((in_dim, *widths), widths, strict=False))
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "... in_dim"], masks: Sequence[Tensor] | None = None) -> Float[Tensor, "... out_dim"]:
        """Return the pre-net's output.

        Args:
            x: frames.
            masks: dropout masks by layer, multiplied with the outputs in training and evaluation alike. None: torch's dropout, which is
                active only in training.
        """
        for number, layer in enumerate(self.layers):
            x = layer(x).relu()
            x = F.dropout(x, self.dropout, self.training) if masks is None else x * masks[number]
        return x


class PrenetMasks:
    """Dropout masks of each frame, equal for all texts of a batch, from a separate random generator.

    The generated speech thus depends only on text and seed, not on the other texts of the batch or on other users of random numbers.
    """

    def __init__(self, prenet: Prenet, *, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.prenet, self.device, self.dtype = prenet, device, dtype
        self.generator = Generator().manual_seed(seed)  # on the CPU, so that every device gets the same masks
        self.drawn: list[list[Tensor]] = []

    def __getitem__(self, frame: int) -> list[Float[Tensor, " width"]]:
        while frame >= len(self.drawn):
            self._draw()
        return self.drawn[frame]

    def first(self, frames: int) -> list[Float[Tensor, "frames width"]]:
        """Return the masks of the first ``frames`` frames, by layer."""
        if frames:
            _ = self[frames - 1]
        return [torch.stack([masks[number] for masks in self.drawn[:frames]]) for number in range(len(self.prenet.widths))]

    def _draw(self) -> None:
        keep, widths = 1 - self.prenet.dropout, self.prenet.widths
        kept = torch.rand(FRESH, sum(widths), generator=self.generator) < keep
        masks = (kept.to(self.dtype) / keep).to(self.device)  # [FRESH, sum of widths]
        self.drawn += [list(row.split(widths)) for row in masks]

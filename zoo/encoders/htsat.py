"""Audio encoder of CLAP: HTSAT, a Swin transformer on a folded mel spectrogram, with or without fusion of the parts of a long clip.

Papers: Chen et al. 2022 (HTS-AT, arXiv 2202.00874), section 2; Wu et al. 2022 (CLAP, arXiv 2211.06687), sections 3.2 and 3.3 (fusion); Dai
et al. 2021 (AFF, arXiv 2009.14082). Reference: transformers 5.17 ``modeling_clap.py``, class ``ClapAudioEncoder``.

A clip of 1001 frames and 64 mel bands is resized to 1024 frames, and its four quarters are stacked along the frequencies to a square of
256 x 256, on which the Swin transformer runs.

Where we differ:

* The views of a long clip (all of it, and three parts) follow each other along the frames, and the mask says which rows have them: a short
  clip has the frames of one view. The reference repeats a short clip four times and reads one copy.
* A clip is fused if it is longer than one view, and never otherwise. The reference's feature extractor marks one random clip of a batch
  without long ones as longer; here the vector of a clip is always the same.
* The BatchNorm over mel bands counts the real frames of each clip once, where the reference counts those of four copies.
* The bias and the projections of attention are those of ``zoo.layers.swin``.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.layers.pool import masked_mean
from zoo.layers.swin import PatchMerging, SwinStage, refuse_uneven_windows
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real, on_host, send

VIEWS = 4  # of a long clip: all of it, shrunk, then its first, middle and last part
REACH = 3  # patches that the convolution of the parts covers along the frames
SQUEEZE = 4  # reduction of the channels inside the fusion weights


@register("encoder")
class HTSAT(Encoder):
    """Audio encoder of mels in dB: normalised tokens, and their mean.

    The tokens are in order of frequency, and of time within each.

    Args:
        num_mels: mel bands.
        spec_size: side of the square that the mels are folded to; a multiple of ``num_mels``.
        patch_size: side of a patch of the square.
        dim: width of the last stage, 2^(stages - 1) times that of the patches.
        depths: blocks of each stage; the map's side halves from stage to stage.
        num_heads: attention heads of each stage.
        window: side of an attention window, in tokens.
        fusion: fuse the parts of clips that are longer than a view.
        view_frames: frames of one view; CLAP's are 10 s.
        eps: of the norms in the blocks.

    Raises:
        ConfigError: the numbers contradict each other.
        DataError: (forward) the number of mel bands is wrong, or a clip has too many frames.
    """

    modality = "audio"
    silent_keywords = ("num_heads", "window", "view_frames", "eps")
    num_mels: int

    def __init__(
        self,
        *,
        num_mels: int = 64,
        spec_size: int = 256,
        patch_size: int = 4,
        dim: int = 768,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 8,
        mlp_ratio: float = 4.0,
        fusion: bool = False,
        view_frames: int = 1001,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        stages = len(depths)
        _refuse_shapes(num_mels, spec_size, patch_size, dim, depths, num_heads)
        side, width = spec_size // patch_size, dim // 2 ** (stages - 1)
        refuse_uneven_windows(side, window, stages)
        self.num_mels, self.dim, self.spec_size, self.view_frames = num_mels, dim, spec_size, view_frames
        self.folds = spec_size // num_mels
        self.context_length = side * side  # patches of one clip
        if not 1 <= view_frames <= spec_size * self.folds or (side >> stages - 1) % self.folds:
            raise ConfigError(
                f"view_frames {view_frames}, spec_size {spec_size}, num_mels {num_mels}: a view has 1 to {spec_size * self.folds} frames, "
                f"and the last map of side {side >> stages - 1} must be a multiple of spec_size / num_mels = {self.folds}"
            )
        # Keywords of the audio processor. Without fusion only the beginning of a long clip is read (the reference: a random part).
        self.preprocessing = {"spectrum": "clap_fusion"} if fusion else {"spectrum": "clap", "too_long": "cut"}
        self.input_norm = nn.BatchNorm1d(num_mels)
        self.patch = nn.Conv2d(1, width, patch_size, patch_size)
        self.fusion = Fusion(width, patch_size) if fusion else None
        self.patch_norm = nn.LayerNorm(width)
        self.stages = nn.ModuleList(
            SwinStage(dim=width << i, depth=depth, num_heads=heads, side=side >> i, window=window, mlp_ratio=mlp_ratio, eps=eps)
            for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True))
        )
        self.merges = nn.ModuleList(PatchMerging(width << i) for i in range(stages - 1))
        self.norm = nn.LayerNorm(dim)
        self._initialise()

    def forward(
        self, mels: Float[Tensor, "batch num_mels frames"], mask: Bool[Tensor, "batch frames"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode mels in dB.

        Args:
            mask: True at the frames of each clip, which are at the left of each row; None if every frame is real. With fusion a clip of
                more than ``view_frames`` frames holds all views of a long clip one after the other.
        """
        x = self.patch_norm(self._embed(mels, mask).movedim(1, -1))  # [B, side, side, width]
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < len(self.merges):
                x = self.merges[number](x)
        x = self.norm(x)  # [B, rows, columns, dim]
        # A row of the square is a piece of time and a frequency: bring the pieces behind each other.
        x = x.unflatten(1, (self.folds, -1)).transpose(1, 2).flatten(1, 3)  # [B, frequencies * times, dim]
        real = all_real(x.shape[:2], x.device)
        return Encoded(x, masked_mean(x, real), real)

    def _embed(self, mels: Tensor, mask: Tensor | None) -> Float[Tensor, "batch width side side"]:
        """Return the patches of each clip, fused with those of its parts if it is long."""
        most = self.view_frames * VIEWS if self.fusion is not None else self.spec_size * self.folds
        if mels.shape[1] != self.num_mels or not 1 <= mels.shape[2] <= most:
            raise DataError(
                f"mels are {list(mels.shape)}; this encoder takes [batch, {self.num_mels}, 1 to {most} frames]: make them with this "
                "model's own processor"
            )
        if mask is not None and not mask.is_meta and not torch.compiler.is_compiling() and bool(on_host(mask).all()):
            mask = None
        x = self._normalised(mels, mask)
        if mask is None or mask.is_meta:
            return self._patches(x)
        made, order = [], []
        for rows, frames in self._groups(on_host(mask).sum(1)):
            made.append(self._patches(x[send(rows, x.device), :, :frames]))
            order.append(rows)
        return torch.cat(made)[send(torch.cat(order).argsort(), x.device)]

    def _groups(self, lengths: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Yield the rows that have the same number of frames; every clip that is longer than a view has all views."""
        if self.fusion is not None:
            lengths = torch.where(lengths > self.view_frames, self.view_frames * VIEWS, lengths)
        for frames in lengths.unique().tolist():
            yield (lengths == frames).nonzero()[:, 0], frames

    def _normalised(self, mels: Tensor, mask: Tensor | None) -> Float[Tensor, "batch num_mels frames"]:
        """Normalise each mel band over the real frames; padding becomes zeros."""
        if mask is None or mask.is_meta:
            return self.input_norm(mels)
        frames = mels.transpose(1, 2)  # [B, frames, num_mels]
        made = torch.zeros_like(frames)
        made[mask] = self.input_norm(frames[mask]).to(made.dtype)
        return made.transpose(1, 2)

    def _patches(self, x: Float[Tensor, "rows num_mels frames"]) -> Float[Tensor, "rows width side side"]:
        """Return the patches of clips of one length."""
        if self.fusion is None:
            return self.patch(self._folded(x[:, None]))
        if x.shape[2] <= self.view_frames:
            return self.patch(self._folded(x[:, None])) + self.fusion.nothing()
        x = F.pad(x, (0, VIEWS * self.view_frames - x.shape[2]))  # views that are cut off see zeros, as padding does
        views = self._folded(x.unflatten(2, (VIEWS, -1)).transpose(1, 2))  # [rows, views, spec_size, spec_size]
        return self.fusion(self.patch(views[:, :1]), views[:, 1:])

    def _folded(self, x: Float[Tensor, "rows views num_mels frames"]) -> Float[Tensor, "rows views spec_size spec_size"]:
        """Resize to the full number of frames, and stack its pieces along the frequencies: row = piece * num_mels + band."""
        frames = self.spec_size * self.folds
        if x.shape[3] < frames:
            x = F.interpolate(x, (self.num_mels, frames), mode="bicubic", align_corners=True)
        return x.unflatten(3, (self.folds, -1)).transpose(2, 3).flatten(2, 3)

    def _initialise(self) -> None:
        """Initialise as HTS-AT's code: matrices and bias tables with a normal distribution of deviation 0.02, biases with zeros."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


class Fusion(nn.Module):
    """Attentional feature fusion of the patches of a whole clip with those of its parts.

    Source: Dai et al. 2021 (arXiv 2009.14082), section 3, with the part branch of Wu et al. 2022, section 3.3.
    """

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        shape = (patch_size, REACH * patch_size)
        self.parts = nn.Conv2d(1, width, shape, shape)
        hidden = width // SQUEEZE
        self.local_weights, self.global_weights = _squeeze(width, hidden), _squeeze(width, hidden)

    def forward(
        self, whole: Float[Tensor, "rows width side side"], parts: Float[Tensor, "rows parts height frames"]
    ) -> Float[Tensor, "rows width side side"]:
        """Weigh the two at each place and channel; places behind the parts, which are a little narrower together, see zeros."""
        made = self.parts(parts.flatten(0, 1)[:, None]).unflatten(0, parts.shape[:2])  # [rows, parts, width, side, narrow]
        made = made.permute(0, 2, 3, 1, 4).flatten(3)  # [rows, width, side, parts * narrow]
        made = F.pad(made, (0, whole.shape[3] - made.shape[3]))
        both = whole + made
        weights = _run(self.local_weights, both) + _run(self.global_weights, both.mean((2, 3), keepdim=True))
        share = weights.sigmoid()
        return 2 * whole * share + 2 * made * (1 - share)

    def nothing(self) -> Float[Tensor, ""]:
        """Return 0 that depends on every parameter, for clips that are not fused: all ranks then have the same gradients."""
        return sum((p.sum() * 0 for p in self.parameters() if p.requires_grad), self.parts.weight.new_zeros(()))


def _squeeze(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, width, 1), nn.BatchNorm2d(width))


def _run(layers: nn.Sequential, x: Float[Tensor, "rows width height columns"]) -> Float[Tensor, "rows width height columns"]:
    """Run the layers; BatchNorm of a single value, which has no variance, uses its running statistics."""
    single = x.numel() == x.shape[1]
    for layer in layers:
        if single and isinstance(layer, nn.BatchNorm2d):
            x = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, training=False, eps=layer.eps)
        else:
            x = layer(x)
    return x


def _refuse_shapes(num_mels: int, spec_size: int, patch_size: int, dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """Raise ConfigError for sizes that do not divide each other."""
    if num_mels < 1 or spec_size % num_mels:
        raise ConfigError(f"num_mels: {num_mels} does not divide spec_size {spec_size}; choose a divisor, for example {spec_size // 4}")
    if patch_size < 1 or spec_size % patch_size:
        raise ConfigError(f"patch_size: {patch_size} does not divide spec_size {spec_size}; choose a divisor, for example 4")
    if not depths or len(depths) != len(num_heads) or min(depths) < 1:
        raise ConfigError(f"depths {list(depths)}, num_heads {list(num_heads)}: give both for each stage, as many of one as of the other")
    if dim % 2 ** (len(depths) - 1) or dim // 2 ** (len(depths) - 1) < SQUEEZE:
        raise ConfigError(
            f"dim: {dim} over {len(depths)} stages, each of which doubles the width; give a multiple of {2 ** (len(depths) - 1)} that is "
            f"{SQUEEZE * 2 ** (len(depths) - 1)} or more"
        )

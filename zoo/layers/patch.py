"""Images to patch tokens."""

from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError


class PatchEmbedding(nn.Module):
    """Non-overlapping patches, each projected to a token, in row-major order.

    Args:
        drop_remainder: leave out the pixels at the right and lower edge that fill no patch, as every reference does in
            silence, where otherwise such a size is refused (SigLIP So400m: 384 pixels are 27 patches of 14 and 6 pixels).

    Raises:
        ConfigError: ``patch_size`` does not divide ``image_size``, or is larger.
        DataError: (forward) the patch does not divide the input's height or width.
    """

    def __init__(self, *, image_size: int, patch_size: int, dim: int, bias: bool = True, drop_remainder: bool = False) -> None:
        super().__init__()
        if not 0 < patch_size <= image_size:
            raise ConfigError(f"patch_size: got {patch_size}; allowed is 1 to image_size {image_size}")
        if image_size % patch_size and not drop_remainder:
            raise ConfigError(
                f"patch_size: {patch_size} does not divide image_size {image_size}; choose sizes that do, or set drop_remainder=true "
                f"to leave out the last {image_size % patch_size} pixels"
            )
        self.patch_size, self.drop_remainder = patch_size, drop_remainder
        self.grid = image_size // patch_size  # tokens along one side at the nominal size
        self.project = nn.Conv2d(3, dim, patch_size, stride=patch_size, bias=bias)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim rows columns"]:
        sides = pixels.shape[2:]
        uneven = not self.drop_remainder and any(side % self.patch_size for side in sides)
        if pixels.ndim != 4 or pixels.shape[1] != 3 or uneven or min(sides) < self.patch_size:
            raise DataError(
                f"pixels have shape {list(pixels.shape)}; allowed is [batch, 3, height, width], both sides "
                f"{'at least' if self.drop_remainder else 'multiples of'} the patch size {self.patch_size}"
            )
        return self.project(pixels)

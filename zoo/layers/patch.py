"""Patch embedding of images."""

from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError


class PatchEmbedding(nn.Module):
    """Projection of non-overlapping square patches to a feature map [batch, dim, rows, columns] of tokens.

    Args:
        image_size: nominal side of the images, in pixels.
        patch_size: side of the patches, in pixels.
        dim: width of the tokens.
        bias: True gives the projection a bias.
        drop_remainder: True ignores pixels at the right and lower edge that do not fill a patch, as all references do silently (SigLIP
            So400m: 384 pixels are 27 patches of 14, and 6 pixels remain). False raises an error for such sizes.

    Raises:
        ConfigError: ``patch_size`` is larger than ``image_size``, or does not divide it and ``drop_remainder`` is False.
        DataError: (forward) the pixels have the wrong shape, or ``patch_size`` does not divide height or width.
    """

    def __init__(self, *, image_size: int, patch_size: int, dim: int, bias: bool = True, drop_remainder: bool = False) -> None:
        super().__init__()
        if not 0 < patch_size <= image_size:
            raise ConfigError(f"patch_size: got {patch_size}; allowed is 1 to image_size {image_size}")
        if image_size % patch_size and not drop_remainder:
            raise ConfigError(
                f"patch_size: {patch_size} does not divide image_size {image_size}; choose sizes that do, or set drop_remainder=true "
                f"to ignore the last {image_size % patch_size} pixels of each side"
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

"""Images to patch tokens."""

from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError


class PatchEmbedding(nn.Module):
    """Non-overlapping patches, each projected to a token, in row-major order.

    Raises:
        ConfigError: ``patch_size`` does not divide ``image_size``.
        DataError: (forward) the patch does not divide the input's height or width.
    """

    def __init__(self, *, image_size: int, patch_size: int, dim: int, bias: bool = True) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ConfigError(f"patch_size: {patch_size} does not divide image_size {image_size}")
        self.patch_size = patch_size
        self.grid = image_size // patch_size  # tokens along one side at the nominal size
        self.project = nn.Conv2d(3, dim, patch_size, stride=patch_size, bias=bias)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim rows columns"]:
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % self.patch_size or pixels.shape[3] % self.patch_size:
            raise DataError(
                f"pixels have shape {list(pixels.shape)}; allowed is [batch, 3, height, width] with both sides multiples of "
                f"the patch size {self.patch_size}"
            )
        return self.project(pixels)

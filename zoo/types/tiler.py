"""Base class of tilers, which cut a picture of any size into tiles or patches, and the plan that everything else reads."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

Size = tuple[int, int]  # height and width, in pixels


@dataclass(frozen=True)
class Plan:
    """Cutting of one picture; every size is (height, width).

    Attributes:
        picture: pixels of the picture as it came.
        resized: pixels that the picture is resized to, one step after the other.
        canvas: pixels of the area that is cut; larger than the last resized size where black borders are added.
        corner: row and column of the picture's first pixel on the canvas.
        grid: rows and columns of tiles, or of patches, that the canvas is cut into, row by row.
        overview: place among the tiles of one more tile, which shows the whole picture; None if there is none.
        overview_of: "picture" makes the overview of the picture as it came, "canvas" of the area that is cut.
        frames: None for a picture that is cut; 0 for a picture that is one tile as a whole; above 0 the number of frames of a video, each
            of which is one tile.
    """

    picture: Size
    resized: tuple[Size, ...]
    canvas: Size
    corner: Size
    grid: tuple[int, int]
    overview: Literal["first", "last"] | None = None
    overview_of: Literal["picture", "canvas"] = "picture"
    frames: int | None = None

    @property
    def tile(self) -> Size:
        """Pixels of one tile or patch."""
        return self.canvas[0] // self.grid[0], self.canvas[1] // self.grid[1]

    @property
    def num_tiles(self) -> int:
        """Number of tiles or patches, the overview included."""
        return self.grid[0] * self.grid[1] + (self.overview is not None)


class Tiler(ABC):
    """Pictures of any size to tiles of one size, or to patches.

    ``plan`` is all that decides: the processor cuts by it, the number of placeholders is counted by it, and the head lays the features
    out by it. A subclass defines ``plan``; one whose language model sees more than the tiles one behind the other also defines ``count``
    and ``arrange``, or ``written``.

    Attributes:
        cuts: "tiles" are whole inputs of an image encoder; "patches" are what its first layer projects, so that pictures of different
            sizes run as one list through an encoder that takes such lists.
        needs_newline: True if ``arrange`` puts a learned vector at the end of each row.
        max_patches: largest number of patches of a picture, of a tiler that enlarges or shrinks pictures to about this number.
        merge: number that divides the rows and columns of each grid of patches.
        symbols: texts of ``written`` that have to be special tokens of the tokenizer.
        tile_size: side of a tile, in pixels; of tilers that cut tiles.
        together: True if a picture is cut only if its conversation holds no other; of several pictures, each is one tile as a whole.
        takes_frames: True if the frames of a video are one item. Of other tilers, each frame is a picture that is one tile as a whole.
        frames: consecutive frames of a video that make one picture; 1 unless the patches of the encoder's first layer hold several.
        takes_videos: True if ``plan_frames`` cuts the frames of a video; of other tilers of patches, a frame is cut like a picture.
        frame_text: text before each such frame; ``{number}`` is counted from 1, and ``{seconds}`` is its time in the video.
        frame_break: text between such frames.
    """

    cuts: ClassVar[Literal["tiles", "patches"]] = "tiles"
    needs_newline: bool = False
    max_patches: int | None = None
    merge: int = 1
    symbols: Sequence[str] = ()
    tile_size: int
    together: bool = False
    takes_frames: bool = False
    takes_videos: bool = False
    frames: int = 1
    frame_text: str = ""
    frame_break: str = "\n"

    @abstractmethod
    def plan(self, height: int, width: int) -> Plan:
        """Return the cutting of a picture.

        Args:
            height: of the picture, in pixels.
            width: of the picture, in pixels.

        Raises:
            DataError: the tiler takes no such picture.
        """

    def plan_of(self, size: Sequence[int]) -> Plan:
        """Return the plan of an item from the two numbers that ``Batch.sizes`` holds of it.

        Args:
            size: height and width of a picture that is cut; ``(0, 0)`` of a picture that is one tile as a whole; ``(0, frames)`` of a
                video.
        """
        height, width = size
        if height:
            return self.plan(height, width)
        number = max(width, 1)
        canvas = (self.tile_size * number, self.tile_size)
        return Plan((0, width), (canvas,), canvas, (0, 0), (number, 1), frames=width)

    def plan_frames(self, number: int, height: int, width: int) -> Plan:
        """Return the cutting of each frame of a video; by default that of a picture.

        Args:
            number: of frames that are shown of the video.
            height: of a frame, in pixels.
            width: of a frame, in pixels.
        """
        return self.plan(height, width)

    def steps_of(self, number: int, interval: float) -> list[int]:
        """Return the time steps of each picture of a video since the picture before; -1 for the first one. By default one step each.

        Args:
            number: of pictures, each of ``frames`` frames.
            interval: seconds from one frame to the next.
        """
        return [-1, *[1] * (number - 1)]

    def count(self, plan: Plan, per_tile: int) -> int:
        """Return the number of features that the language model gets for a picture.

        Args:
            plan: of the picture.
            per_tile: features that the connector makes of one tile.
        """
        return plan.num_tiles * per_tile

    def arrange(
        self, features: Float[Tensor, "num_tiles per_tile dim"], plan: Plan, newline: Float[Tensor, " dim"] | None = None
    ) -> Float[Tensor, "count dim"]:
        """Return the features of a picture in the order in which the language model reads them; by default tile after tile.

        Args:
            features: of the tiles, in the order in which they were cut.
            plan: of the picture.
            newline: learned vector at the end of a row, where ``needs_newline``.
        """
        return features.flatten(0, 1)

    def written(self, plan: Plan, per_tile: int) -> list[str | int]:
        """Return symbols that stand for the picture in the text, and numbers of placeholders between them; by default the number alone."""
        return [self.count(plan, per_tile)]

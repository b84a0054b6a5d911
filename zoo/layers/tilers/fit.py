"""Fit: a picture near its own size, both sides whole numbers of merged patches (Qwen2-VL and later); videos by pairs of frames.

Papers: Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191), section 2.1; Bai et al. 2025, "Qwen2.5-VL" (arXiv 2502.13923), section 2.1.2; Qwen
team 2025, "Qwen3-VL" (arXiv 2511.21631). Reference: transformers 5.17 ``image_processing_qwen2_vl.py``,
``video_processing_qwen2_vl.py`` and ``video_processing_qwen3_vl.py`` (``smart_resize``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.connector import refuse_below
from zoo.registry import register
from zoo.registry.construct import construct
from zoo.types import Plan, Tiler
from zoo.types.tiler import Size

MOST_ELONGATED = 200  # largest ratio of the sides
TIMES = ("order", "seconds", "text")


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Settings of videos.

    Attributes:
        frames: consecutive frames that make one picture; a system takes it from its encoder.
        time: how the language model learns the time of a picture. "order" counts pictures on the axis of time (Qwen2-VL); "seconds" counts
            ``per_second`` steps of each second (2.5-VL); "text" writes the time before each picture, which is then a picture of its own
            (3-VL).
        per_second: time steps of a second, for "seconds".
        min_pixels: smaller frames are enlarged to at least this.
        max_pixels: larger frames are shrunk to at most this.
        shared: True if the limits hold for all frames of a video together (3-VL), False for each frame.
        most_tokens: lowers ``max_pixels`` of long videos, but not below 1.05 times ``min_pixels`` a frame. With ``shared``, a frame has at
            most so many tokens, else all frames together 90 % of so many. None: no such limit.
    """

    frames: int = 1
    time: str = "order"
    per_second: float = 2.0
    min_pixels: int = 100_352
    max_pixels: int = 602_112
    shared: bool = False
    most_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.time not in TIMES:
            raise ConfigError(f"video.time: there is no {self.time!r}; {name_choices(self.time, TIMES)}")
        if self.per_second <= 0:
            raise ConfigError(f"video.per_second: got {self.per_second}; allowed is a number above 0")
        for key, value, least in (("frames", self.frames, 1), ("min_pixels", self.min_pixels, 1)):
            refuse_below(f"video.{key}", value, least)
        refuse_below("video.max_pixels", self.max_pixels, self.min_pixels)
        refuse_below("video.most_tokens", 1 if self.most_tokens is None else self.most_tokens, 1)

    def most_pixels(self, number: int, square: int) -> int:
        """Return the largest number of pixels of a frame, or of all together if the limits are shared.

        Args:
            number: of frames.
            square: pixels of one token.
        """
        if self.most_tokens is None:
            return self.max_pixels
        least = int(self.min_pixels * 1.05)
        if self.shared:
            return max(min(self.most_tokens * square, self.max_pixels // number), least) * number
        return max(min(self.max_pixels, int(self.most_tokens * square * 0.9) * self.frames // number), least)


@register("tiler")
class Fit(Tiler):
    """Patches of a picture whose sides are rounded to ``merge`` patches, scaled only if it has too few or too many pixels.

    Args:
        patch_size: side of a patch, in pixels.
        merge: patches along each side that become one token of the language model.
        min_pixels: smaller pictures are enlarged to at least this.
        max_pixels: larger pictures are shrunk to at most this.
        video: how videos are cut, a mapping of ``VideoOptions``: ``{time: seconds, per_second: 2}``. None takes frames as pictures.

    Raises:
        ConfigError: a value is not positive, ``max_pixels`` is below ``min_pixels``, or an option of ``video`` is unknown.
    """

    cuts = "patches"

    def __init__(
        self,
        *,
        patch_size: int,
        merge: int = 2,
        min_pixels: int = 3136,
        max_pixels: int = 1_003_520,
        video: Mapping[str, Any] | None = None,
    ) -> None:
        for key, value in (("patch_size", patch_size), ("merge", merge), ("min_pixels", min_pixels)):
            refuse_below(key, value, 1)
        refuse_below("max_pixels", max_pixels, min_pixels)
        self.patch_size, self.merge, self.min_pixels, self.max_pixels = patch_size, merge, min_pixels, max_pixels
        self.video = None if video is None else construct(VideoOptions, video, "video")
        if self.video is not None:
            self.frames, self.takes_videos, self.takes_frames = self.video.frames, True, self.video.time != "text"
            self.frame_text, self.frame_break = ("", "\n") if self.takes_frames else ("<{seconds:.1f} seconds>", "")

    def plan(self, height: int, width: int) -> Plan:
        """Return the cutting of a picture.

        Raises:
            DataError: one side is more than 200 times the other.
        """
        return self._plan((height, width), (height, width), self.min_pixels, self.max_pixels)

    def plan_frames(self, number: int, height: int, width: int) -> Plan:
        """Return the cutting of each frame of a video.

        Raises:
            DataError: one side is more than 200 times the other.
        """
        if self.video is None:
            return self.plan(height, width)
        size, video, step = (height, width), self.video, self.patch_size * self.merge
        most = video.most_pixels(number, step**2)
        if not video.shared:
            return self._plan(size, size, video.min_pixels, most)
        if min(size) < step:
            scale = max(step / height, step / width)
            size = (int(height * scale), int(width * scale))
        whole = max(1, round(number / video.frames)) * video.frames  # half to even, as in the reference
        return self._plan((height, width), size, video.min_pixels, most, number, whole)

    def _plan(self, picture: Size, size: Size, least: int, most: int, frames: int = 1, counted: int = 1) -> Plan:
        """Return the cutting of a picture, or of each of ``frames`` frames whose pixels count ``counted`` times for the limits.

        Args:
            picture: height and width as it came.
            size: height and width to start from.
            least: smallest number of pixels.
            most: largest number of pixels.
        """
        height, width = size
        if max(size) > MOST_ELONGATED * min(size):
            raise DataError(
                f"a picture has {picture[0]} x {picture[1]} pixels; tiler fit takes a ratio of the sides of at most {MOST_ELONGATED}"
            )
        step = self.patch_size * self.merge
        rows, columns = round(height / step), round(width / step)  # half to even
        if counted * rows * columns * step**2 > most:
            scale = math.sqrt(frames * height * width / most)
            rows, columns = (max(1, math.floor(side / scale / step)) for side in size)
        elif counted * rows * columns * step**2 < least:
            scale = math.sqrt(least / (frames * height * width))
            rows, columns = (math.ceil(side * scale / step) for side in size)
        canvas = (rows * step, columns * step)
        return Plan(picture, (canvas,), canvas, (0, 0), (rows * self.merge, columns * self.merge))

    def steps_of(self, number: int, interval: float) -> list[int]:
        """Return the time steps of each picture of a video since the picture before; -1 for the first one.

        With ``per_second`` 2, pictures of two frames that are a quarter of a second apart are at the times 0, 1, 2, ...; those of frames
        0.375 seconds apart at 0, 1, 3, 4, 6, ...: half a step is rounded down.
        """
        if self.video is None or self.video.time != "seconds":
            return super().steps_of(number, interval)
        apart = interval * self.video.frames * self.video.per_second
        times = [math.floor(place * apart + 1e-6) for place in range(number)]  # an interval of 1 / 3 is not a bit too short
        return [-1, *(later - earlier for earlier, later in zip(times, times[1:], strict=False))]

    def count(self, plan: Plan, per_tile: int = 1) -> int:
        return plan.num_tiles // self.merge**2 * per_tile

"""Tilers by name, the numbers of tokens of their plans, and features of tiles put in the order in which a language model reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.squares import refuse_grids
from zoo.registry import find_part, part_names
from zoo.registry.construct import construct
from zoo.types import Plan, Tiler, on_host, send


def build_tiler(kind: str | Mapping[str, Any], *, tile_size: int, key: str = "tiler") -> Tiler:
    """Return a tiler, given its name or a mapping with its name and options: ``{kind: canvas, max_tiles: 6}``.

    Args:
        kind: a registered tiler, or a mapping with the key ``kind``.
        tile_size: side of the encoder's pictures, in pixels; tilers that cut patches take their own option ``patch_size`` instead.
        key: config key, for messages.

    Raises:
        ConfigError: the name or an option is unknown, or a value is not allowed.
    """
    part = tiler_class(kind, key)
    options = {} if isinstance(kind, str) else {name: value for name, value in kind.items() if name != "kind"}
    given = {"tile_size": tile_size} if part.cuts == "tiles" else {}
    return construct(part, options, key, **given)


def tiler_class(kind: str | Mapping[str, Any], key: str = "tiler") -> type[Tiler]:
    """Return the class of a tiler, given its name or a mapping with the key ``kind``.

    Raises:
        ConfigError: the name is unknown.
    """
    name = kind if isinstance(kind, str) else kind.get("kind")
    if name not in part_names("tiler"):
        raise ConfigError(f"{key}: there is no {name!r}; {name_choices(str(name), part_names('tiler'))}")
    return find_part("tiler", str(name))


@dataclass(frozen=True)
class TiledCounts:
    """Tokens of a picture that is cut into tiles, by its plan. Workers hold a copy; it is small.

    Attributes:
        tiler: makes the plan.
        per_tile: tokens that the connector makes of one tile.
        merge: of patches, the side of the squares that become one token; None if each picture gives ``per_tile`` tokens.
    """

    tiler: Tiler
    per_tile: int
    merge: int | None = 1

    fixed = None  # pictures of different sizes have different numbers

    def plan(self, item: Any) -> Plan:
        """Return the plan of a picture that was cut (``zoo.processors.media.tiles.Tiles``)."""
        return self.tiler.plan_of([int(side) for side in item.size])

    def __call__(self, item: Any) -> int:
        """Return the number of tokens of a picture or video that was cut.

        Raises:
            DataError: squares of patches do not fill the picture's grid.
        """
        if self.tiler.cuts == "tiles":
            return self.tiler.count(self.plan(item), self.per_tile)
        pictures = len(item.steps)
        if self.merge is None:
            return self.per_tile * pictures
        rows, columns = item.grid.tolist()
        refuse_grids([(rows, columns)], self.merge)
        return rows * columns // self.merge**2 * pictures

    def written(self, item: Any) -> list[str | int]:
        """Return the symbols and numbers of placeholders that stand for the picture in the text."""
        return self.tiler.written(self.plan(item), self.per_tile) if self.tiler.cuts == "tiles" else [self(item)]


def plans_of(sizes: Int64[Tensor, "items 2"], tiler: Tiler) -> list[Plan]:
    """Return the plans of the pictures of a batch."""
    return [tiler.plan_of(size) for size in on_host(sizes).tolist()]


def arrange_tiles(
    features: Float[Tensor, "num_tiles per_tile dim"], plans: Sequence[Plan], tiler: Tiler, newline: Float[Tensor, " dim"] | None
) -> tuple[Float[Tensor, "items most_tokens dim"], Bool[Tensor, "items most_tokens"]]:
    """Return the features of each picture, laid out by its plan and padded to the longest, and the mask of real ones.

    Args:
        features: of all tiles of the batch, picture after picture.
        plans: one per picture.
        tiler: the tiler that made the plans.
        newline: learned vector at the end of each row, if the tiler needs one.
    """
    if not plans:  # nothing, through which every parameter still gets a gradient of zero
        nothing = features.sum() if newline is None else features.sum() + 0 * newline.sum()
        return features.new_zeros(0, 1, features.shape[2]) + nothing, torch.zeros(0, 1, dtype=torch.bool, device=features.device)
    parts = features.split([plan.num_tiles for plan in plans])
    return padded_features([tiler.arrange(part, plan, newline) for part, plan in zip(parts, plans, strict=True)])


def padded_features(
    rows: Sequence[Float[Tensor, "_ dim"]],
) -> tuple[Float[Tensor, "items most_tokens dim"], Bool[Tensor, "items most_tokens"]]:
    """Return the features of each item, padded to the longest, and the mask of real ones, whose values stay known on the CPU."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True), send(mask, rows[0].device)

"""Rotary position embeddings (RoPE): queries and keys are rotated by angles proportional to their position.

Source: Su et al. 2021 (arXiv 2104.09864), section 3.2.2. Channel j of the first half of a head is paired with channel j of the second half,
as in transformers. Meta's original files pair neighbouring channels; converting them reorders the rows of the query and key weights.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, name_choices

SCALINGS = {  # kind -> the numbers that its config must give
    "linear": ("factor",),
    "dynamic": ("factor", "original_context_length"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_context_length"),
    "yarn": ("factor", "original_context_length", "beta_fast", "beta_slow", "attention_factor"),
    "longrope": ("original_context_length", "attention_factor"),
}
LISTS = {"longrope": ("short_factor", "long_factor")}  # kind -> lists with one number for each pair of channels
OPTIONS = {"yarn": ("truncate",)}  # kind -> switches, which are true unless they are given


class Rotary:
    """Rotation angles by position; not a module, because it has no weights.

    Args:
        head_dim: width of each head; even.
        theta: the wavelengths of the channels range from 2 pi to 2 pi theta positions.
        share: part of the channels, from the first one on, that is rotated; the others stay as they are.
        scaling: adaptation to texts longer than those of the training. ``{kind: linear, factor: 4.0}`` divides positions by the factor.
            ``kind: dynamic`` enlarges theta for texts longer than ``original_context_length``. ``kind: llama3`` divides the frequencies of
            slow channels (fewer than ``low_freq_factor`` turns in ``original_context_length``), keeps those of fast channels (more than
            ``high_freq_factor`` turns), and blends in between. ``kind: yarn`` does the same between ``beta_slow`` and ``beta_fast`` turns,
            by the number of the channel, and multiplies queries and keys by ``attention_factor``. ``kind: longrope`` divides each frequency
            by its own number: ``short_factor`` for texts up to ``original_context_length``, otherwise ``long_factor``.
        sections: number of pairs of channels that turn by the position on each of three axes, time, row and column (M-RoPE, see
            ``zoo.layers.picture_positions``); None: there is one axis.
        interleaved: False gives the first pairs to time, the next ones to the row, the last ones to the column (Qwen2-VL). True takes
            turns, time, row, column, time, ..., as long as each has pairs left (Qwen3-VL).

    Sources: bloc97 2023 (NTK-aware scaling) for "dynamic"; Peng et al. 2023 (YaRN, arXiv 2309.00071), section 3.2 and 3.4; Ding et al. 2024
    (LongRoPE, arXiv 2402.13753), equation 3; transformers 5.17 ``modeling_rope_utils.py``. M-RoPE: Wang et al. 2024 (arXiv 2409.12191),
    section 2.1, and for the interleaved order transformers 5.17 ``modeling_qwen3_vl.py``.

    Where we differ: "dynamic" and "longrope" depend on the length of a text. We take the length of each row; transformers takes the
    longest row of the batch (for a packed list both take the longest row). A text that grows beyond ``original_context_length`` while it is
    generated keeps the keys that it has.

    Raises:
        ConfigError: ``head_dim`` is odd, ``theta`` is not positive, the scaling is unknown or incomplete, or the sections do not fit.
    """

    def __init__(
        self,
        *,
        head_dim: int,
        theta: float = 10_000.0,
        scaling: Mapping[str, Any] | None = None,
        share: float = 1.0,
        sections: Sequence[int] | None = None,
        interleaved: bool = False,
    ) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"rotary_share: got {share}; allowed is a number above 0 and up to 1")
        self.dim = int(head_dim * share)
        if self.dim % 2 or not self.dim:
            of = "" if share == 1 else f" times rotary_share {share}"
            raise ConfigError(f"head_dim: {self.dim} is odd{of}; allowed are even widths, because rotary positions pair channels")
        if theta <= 0:
            raise ConfigError(f"rope_theta: got {theta}; allowed are numbers above 0")
        refuse_scaling(scaling, self.dim // 2)
        self.head_dim, self.theta, self.scaling = head_dim, theta, dict(scaling or {})
        self.axes = None if sections is None else axes_of_pairs(sections, self.dim // 2, interleaved=interleaved)
        if self.axes is not None and self.scaling.get("kind") in ("dynamic", "longrope"):
            raise ConfigError(
                f"rope_sections: not possible with rope_scaling.kind {self.scaling['kind']!r}; allowed are linear, llama3, yarn"
            )

    def tables(self, positions: Int[Tensor, "*axes_and_tokens"]) -> tuple[Float[Tensor, "*tokens half"], Float[Tensor, "*tokens half"]]:
        """Return cosine and sine of each position's angles, in float32; with sections, positions have the three axes first."""
        # float32 always: bf16 represents integers exactly only up to 256.
        if self.axes is None:
            angles = positions[..., None].float() * self._frequencies_of(positions)
        else:
            chosen = positions.float().index_select(0, torch.tensor(self.axes, device=positions.device)).movedim(0, -1)  # [*tokens, half]
            angles = chosen * self.frequencies(positions.device)
        factor = self.scaling.get("attention_factor", 1.0)
        return (angles.cos(), angles.sin()) if factor == 1.0 else (angles.cos() * factor, angles.sin() * factor)

    def _frequencies_of(self, positions: Tensor) -> Tensor:
        """Return the frequencies [half], or [*rows, 1, half] if they depend on the length of each row."""
        if self.scaling.get("kind") not in ("dynamic", "longrope") or not positions.numel():
            return self.frequencies(positions.device)
        lengths = positions.amax(-1, keepdim=True)[..., None] + 1  # [*rows, 1, 1]
        original = self.scaling["original_context_length"]
        if self.scaling["kind"] == "longrope":
            short, long = (self.frequencies(positions.device, longer=longer) for longer in (False, True))
            return torch.where(lengths > original, long, short)
        factor = self.scaling["factor"]
        stretch = (factor * lengths.clamp(min=original).float() / original - (factor - 1)) ** (self.dim / (self.dim - 2))
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float32, device=positions.device) / self.dim
        return 1.0 / (self.theta * stretch) ** exponents

    def frequencies(self, device: torch.device, *, longer: bool = False) -> Float[Tensor, " half"]:
        """Return the frequency of each pair of channels, in radians per position.

        Args:
            longer: of texts beyond ``original_context_length``; matters for "longrope" only.
        """
        frequencies = 1.0 / self.theta ** (torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim)
        kind = self.scaling.get("kind")
        if kind is None or kind == "dynamic":
            return frequencies
        if kind == "longrope":
            return frequencies / torch.tensor(self.scaling["long_factor" if longer else "short_factor"], device=device)
        factor = self.scaling["factor"]
        if kind == "linear":
            return frequencies / factor
        kept = self._kept_by_channel(device) if kind == "yarn" else self._kept_by_turns(frequencies)
        return frequencies * (kept + (1 - kept) / factor)  # kept 1: frequency is kept, 0: frequency is divided by the factor

    def _kept_by_turns(self, frequencies: Tensor) -> Tensor:
        turns = self.scaling["original_context_length"] * frequencies / (2 * math.pi)
        low, high = self.scaling["low_freq_factor"], self.scaling["high_freq_factor"]
        return ((turns - low) / (high - low)).clamp(0, 1)

    def _kept_by_channel(self, device: torch.device) -> Tensor:
        """Return YaRN's ramp: 1 up to the channel with ``beta_fast`` turns, 0 from that with ``beta_slow`` turns on."""
        length = self.scaling["original_context_length"]

        def channel(turns: float) -> float:
            return self.dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = channel(self.scaling["beta_fast"]), channel(self.scaling["beta_slow"])
        if self.scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        pairs = torch.arange(self.dim // 2, dtype=torch.float32, device=device)
        return 1 - ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)


@dataclass(frozen=True, eq=False)  # compared by identity: tensors have no hash by value
class Turn:
    """Rotation of queries and keys by the same angles: ``Turn(*rotary.tables(positions))(states, num_queries)``."""

    cos: Float[Tensor, "*tokens half"]
    sin: Float[Tensor, "*tokens half"]

    # by type of the states: all layers of a call share them
    _factors: dict[torch.dtype, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def __call__(
        self, states: Float[Tensor, "*tokens num_heads head_dim"], num_queries: int
    ) -> tuple[Float[Tensor, "*tokens queries head_dim"], Float[Tensor, "*tokens keys head_dim"]]:
        """Return rotated queries, which are the first ``num_queries`` heads of ``states``, and rotated keys."""
        if states.dtype not in self._factors:
            self._factors[states.dtype] = rotation_factors(self.cos, self.sin, states.dtype)
        turned = turn(states, *self._factors[states.dtype])
        return turned[..., :num_queries, :], turned[..., num_queries:, :]


def rotate(
    x: Float[Tensor, "*tokens num_heads head_dim"], cos: Float[Tensor, "*#tokens half"], sin: Float[Tensor, "*#tokens half"]
) -> Float[Tensor, "*tokens num_heads head_dim"]:
    """Rotate each pair of channels (j, j + half) of every head by its position's angle; channels beyond 2 * half stay."""
    return turn(x, *rotation_factors(cos, sin, x.dtype))


def rotation_factors(
    cos: Float[Tensor, "*tokens half"], sin: Float[Tensor, "*tokens half"], dtype: torch.dtype
) -> tuple[Float[Tensor, "*tokens 1 width"], Float[Tensor, "*tokens 1 width"]]:
    """Return the factors of ``turn``, for all heads: (cos, cos) of each channel itself, and (-sin, sin) of its partner."""
    cos, sin = (table[..., None, :].to(dtype) for table in (cos, sin))  # [..., 1, half]
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def turn(
    x: Float[Tensor, "*tokens num_heads head_dim"], own: Float[Tensor, "*#tokens 1 width"], partner: Float[Tensor, "*#tokens 1 width"]
) -> Float[Tensor, "*tokens num_heads head_dim"]:
    """Rotate pairs of channels by ``rotation_factors``: each channel times its own factor, plus its partner times the other."""
    width = own.shape[-1]
    if width < x.shape[-1]:
        return torch.cat([turn(x[..., :width], own, partner), x[..., width:]], dim=-1)
    first, second = x.chunk(2, dim=-1)
    return (x * own).add_(torch.cat([second, first], dim=-1).mul_(partner))


def axes_of_pairs(sections: Sequence[int], half: int, *, interleaved: bool) -> list[int]:
    """Return the axis (0 time, 1 row, 2 column) by which each pair of channels turns. See ``Rotary``.

    Sections [2, 1, 1] give 0 0 1 2; sections [3, 2, 2] interleaved 0 1 2 0 1 2 0.

    Args:
        sections: number of pairs of each axis.
        half: number of pairs.
        interleaved: the axes take turns.

    Raises:
        ConfigError: there are not three sections, or they do not add up to ``half``, or cannot take turns.
    """
    if len(sections) != 3 or min(sections) < 0 or sum(sections) != half:
        raise ConfigError(
            f"rope_sections: got {list(sections)}; allowed are three numbers that add up to the {half} pairs of channels of a head"
        )
    if not interleaved:
        return [axis for axis, count in enumerate(sections) for _ in range(count)]
    axes = [pair % 3 if pair < 3 * sections[pair % 3] else 0 for pair in range(half)]
    if any(axes.count(axis) != count for axis, count in enumerate(sections)):
        raise ConfigError(
            f"rope_sections: got {list(sections)}, which cannot take turns; allowed is a first number that is not below the others"
        )
    return axes


def refuse_scaling(scaling: Mapping[str, Any] | None, half: int) -> None:
    """Raise ConfigError if the kind of a scaling is unknown, or its numbers are missing or out of range.

    Args:
        half: number of pairs of channels; the length of lists.
    """
    if not scaling:
        return
    kind = str(scaling.get("kind"))
    if kind not in SCALINGS:
        raise ConfigError(f"rope_scaling.kind: there is no {kind!r}; {name_choices(kind, SCALINGS)}")
    lists = LISTS.get(kind, ())
    wanted = {"kind", *SCALINGS[kind], *lists}
    given = set(scaling) - set(OPTIONS.get(kind, ()))
    if given != wanted or not all(isinstance(scaling[key], int | float) and scaling[key] > 0 for key in SCALINGS[kind]):
        raise ConfigError(
            f"rope_scaling: got {dict(scaling)}; kind {kind!r} needs numbers above 0 for {', '.join((*SCALINGS[kind], *lists))}"
        )
    for key in lists:
        if not isinstance(scaling[key], Sequence) or len(scaling[key]) != half:
            raise ConfigError(
                f"rope_scaling.{key}: got {str(scaling[key])[:60]}; allowed is a list of {half} numbers, one for each pair of channels"
            )
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise ConfigError(
            f"rope_scaling: low_freq_factor {scaling['low_freq_factor']} must be below high_freq_factor {scaling['high_freq_factor']}"
        )

"""Fusion of several image encoders: their pooled vectors side by side, each at length 1 times the weight that a gate gives it.

The cosine of two such vectors is the weighted sum of the encoders' cosines, so a head that compares them averages the encoders' scores.
The text side puts the vectors that belong to each encoder side by side too (``projections: {text: mlp_and_input}`` of the head ``clip``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.registry import register
from zoo.registry.construct import build_part
from zoo.types import Encoded, Encoder
from zoo.types.processor import CLIP_MEAN, CLIP_STD

GATES = ("fixed", "item")


class Gate(nn.Module):
    """Weights of several vectors: ``exp(level + power * log(length))``.

    Args:
        num_vectors: number of vectors.
        kind: "fixed" has the same weights for every item; "item" also reads the length of each vector, which tells the confidence of
            ``zoo.encoders.conse``.
        shares: initial weights; None gives all 1.
    """

    def __init__(self, num_vectors: int, kind: str, shares: Sequence[float] | None) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(shares or [1.0] * num_vectors).log())
        self.power = nn.Parameter(torch.zeros(num_vectors)) if kind == "item" else None  # 0: begins as the fixed gate

    def forward(self, vectors: Sequence[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch dim"]:
        """Return the vectors side by side, each with its weight as its length."""
        lengths = torch.stack([vector.norm(dim=-1) for vector in vectors], dim=-1).clamp(min=1e-6)  # [batch, num_vectors]
        exponent = self.level if self.power is None else self.level + self.power * lengths.log()
        weights = (exponent.exp().expand_as(lengths) / lengths).unbind(-1)
        return torch.cat([weight.unsqueeze(-1) * vector for weight, vector in zip(weights, vectors, strict=True)], dim=-1)


@register("encoder")
class Fusion(Encoder):
    """Image encoder that joins the pooled vectors of others.

    The input has values from 0 to 1. Each member gets the centre that its ``crop_fraction`` says, at its own size and with its own mean and
    standard deviation.

    Args:
        encoders: configs of the members, two or more image encoders with pooled vectors.
        gate: "fixed" or "item" (see ``Gate``).
        shares: initial weight of each member, above 0; None gives all 1.
        image_size: side of the input in pixels; None takes the smallest that no member has to enlarge.

    Raises:
        ConfigError: fewer than two members, a member that is no image encoder or gives no pooled vector, or an unknown gate.
    """

    modality = "image"
    after_features = ("gate",)

    def __init__(
        self,
        *,
        encoders: list[dict[str, Any]],
        gate: str = "fixed",
        shares: list[float] | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        if gate not in GATES:
            raise ConfigError(f"gate: there is no {gate!r}; {name_choices(gate, GATES)}")
        if len(encoders) < 2:
            raise ConfigError(f"encoders: got {len(encoders)}; a fusion joins 2 or more")
        if shares is not None and (len(shares) != len(encoders) or min(shares) <= 0):
            raise ConfigError(f"shares: got {shares}; allowed is one number above 0 for each of the {len(encoders)} encoders")
        members = [build_part("encoder", config, f"encoders[{i}]") for i, config in enumerate(encoders)]
        for i, member in enumerate(members):
            if member.modality != "image" or not member.gives_pooled:
                lack = "gives no pooled vector" if member.modality == "image" else f"takes {member.modality}"
                raise ConfigError(f"encoders[{i}]: {encoders[i].get('name')!r} {lack}; allowed are image encoders with a pooled vector")
        self.encoders, self.gate = nn.ModuleList(members), Gate(len(members), gate, shares)
        self.views = [_View.of(member) for member in members]
        self.image_size = max(view.whole for view in self.views) if image_size is None else image_size
        self.widths = [member.dim for member in members]
        self.dim = sum(self.widths)

    @property
    def preprocessing(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Keywords of the image processor: those of the first member, with all of the image and values from 0 to 1."""
        first: dict[str, Any] = dict(self.encoders[0].preprocessing)  # type: ignore[arg-type]
        return {**first, "crop_fraction": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}

    def features(self, x: Float[Tensor, "batch 3 height width"], mask: None = None) -> Float[Tensor, "batch dim"]:
        """Return the members' pooled vectors side by side, without weights."""
        vectors = [m(view(x), reads="pooled").pooled for m, view in zip(self.encoders, self.views, strict=True)]
        return torch.cat(vectors, dim=-1)

    def from_features(self, features: Float[Tensor, "batch dim"]) -> Encoded:
        """Weigh the members' vectors."""
        return Encoded.of_pooled(self.gate(features.split(self.widths, dim=-1)))

    def forward(self, x: Float[Tensor, "batch 3 height width"], mask: None = None, *, reads: str = "tokens") -> Encoded:
        """Encode to one token, which is the pooled vector [batch, dim]."""
        return self.from_features(self.features(x))


class _View:
    """Part of the input that one member gets.

    Attributes:
        size: side of the member's input in pixels.
        whole: side of an image whose centre of ``size`` pixels is the member's ``crop_fraction``.
    """

    def __init__(self, size: int, fraction: float, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size, self.whole, self.fraction = size, int(size / fraction), fraction
        self.mean, self.std = tuple(mean), tuple(std)

    @classmethod
    def of(cls, member: Encoder) -> "_View":
        """Read the view off a member's own preprocessing."""
        known = member.preprocessing
        assert member.image_size is not None  # a rule of image encoders
        return cls(member.image_size, known.get("crop_fraction", 1.0), known.get("mean", CLIP_MEAN), known.get("std", CLIP_STD))

    def __call__(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        width = int(x.shape[-1])  # torch.jit.trace gives tensors
        side = self.size if width == self.whole else round(width * self.fraction)
        top, left = (x.shape[-2] - side) // 2, (width - side) // 2
        x = x[..., top : top + side, left : left + side]
        if side != self.size:
            wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x  # torch resizes neither of the two on a CPU
            x = F.interpolate(wide, size=self.size, mode="bicubic", antialias=True).to(x.dtype)
        mean, std = (torch.tensor(values, dtype=x.dtype, device=x.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std

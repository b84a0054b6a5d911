"""Contrastive loss of several modalities that are each paired with one anchor, over the items that have both sides (ImageBind).

Paper: Girdhar et al. 2023 (ImageBind, arXiv 2305.05665), sections 3.1 and 3.2. Pairs without the anchor are never trained; that their
vectors match too is the paper's finding.
"""

import math
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.losses import directed_info_nce
from zoo.types import on_host, presence_of, send


class AnchoredPairs(nn.Module):
    """One symmetric InfoNCE for each pair of the anchor and another modality, with a scale of its own.

    Args:
        modalities: all of them.
        anchor: the modality in every pair.
        initial: first value of the learned factors on the cosines.
        fixed: factors that are not learned, by modality (ImageBind: 20 for audio).

    Raises:
        ConfigError: the anchor or a modality of ``fixed`` is none of the modalities, or a fixed factor is not above 0.
    """

    def __init__(self, modalities: Collection[str], *, anchor: str, initial: float, fixed: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if anchor not in modalities:
            raise ConfigError(f"anchor: there is no {anchor!r} among the encoders; {name_choices(anchor, sorted(modalities))}")
        self.anchor, self.fixed = anchor, {name: float(factor) for name, factor in (fixed or {}).items()}
        self.others = sorted(set(modalities) - {anchor})
        for name, factor in self.fixed.items():
            if name not in self.others or factor <= 0:
                raise ConfigError(
                    f"fixed_scales.{name}: {factor}; allowed are factors above 0 for {', '.join(self.others)}, which are paired with "
                    f"the anchor {anchor}"
                )
        learned = [name for name in self.others if name not in self.fixed]
        # Logarithms, as in CLIP.
        self.logit_scales = nn.ParameterDict({name: nn.Parameter(torch.tensor(math.log(initial))) for name in learned})

    def scale(self, modality: str) -> Float[Tensor, ""]:
        """Return the factor on the cosines of the anchor and a modality."""
        if modality in self.fixed:
            reference = next(self.parameters(), torch.empty(0))
            return torch.tensor(self.fixed[modality], device=reference.device)
        return self.logit_scales[modality].exp()

    def forward(
        self, features: Mapping[str, Float[Tensor, "_ dim"]], targets: Mapping[str, Tensor], groups: Int[Tensor, " batch"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the sum of the losses of all pairs, and the loss and scale of each as metrics.

        Args:
            features: unit vectors of the items that have the modality.
            targets: of the batch; ``presence_of`` finds the masks of the items that have a modality.
            groups: of all items of the batch; None: only pairs are positives.
        """
        total, metrics = 0, {}
        for name in self.others:
            first, second, items = _paired(features, targets, self.anchor, name)
            scale = self.scale(name)
            loss = directed_info_nce(first, second, scale, scale, None if groups is None else groups[items])
            total = total + loss
            metrics |= {f"loss_{name}": loss.detach(), f"logit_scale_{name}": scale.detach()}
        assert isinstance(total, Tensor)
        return total, metrics

    @torch.no_grad()
    def clamp(self, largest: float) -> None:
        """Keep the learned factors between 1 and ``largest``."""
        for scale in self.logit_scales.values():
            scale.clamp_(0.0, math.log(largest))


def _paired(
    features: Mapping[str, Tensor], targets: Mapping[str, Tensor], anchor: str, other: str
) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"], Int[Tensor, " rows"] | slice]:
    """Return the vectors of the items that have both sides, and the places of these items in the batch.

    A batch of items ``[i t], [i], [t], [i t]`` holds 3 images and 3 texts; rows 0 and 2 of each are the two pairs.
    """
    like = next(iter(features.values()))
    first, second = (features.get(name, like[:0]) for name in (anchor, other))
    masks = [presence_of(targets, name) for name in (anchor, other)]
    if all(mask is None for mask in masks):
        if len(first) != len(second) and len(first) and len(second):
            raise DataError(
                f"the batch holds {len(first)} of {anchor} and {len(second)} of {other}; without masks of the items that have each "
                f"(targets['present_{anchor}']), the numbers must be equal"
            )
        count = min(len(first), len(second))
        return first[:count], second[:count], slice(count)
    count = len(next(mask for mask in masks if mask is not None))
    one, two = (torch.ones(count, dtype=torch.bool) if mask is None else on_host(mask) for mask in masks)
    for name, mask in ((anchor, one), (other, two)):
        if name in features and int(mask.sum()) != len(features[name]):
            raise DataError(f"targets['present_{name}'] marks {int(mask.sum())} items, but the batch holds {len(features[name])} of {name}")
    both = one & two & (anchor in features and other in features)
    sides = [x[send(both[mask].nonzero()[:, 0], like.device)] if both.any() else x[:0] for x, mask in ((first, one), (second, two))]
    return sides[0], sides[1], send(both.nonzero()[:, 0], like.device)

"""Mixup and CutMix of whole batches, with soft labels.

Papers: Zhang et al. 2017 (arXiv 1710.09412) and Yun et al. 2019 (arXiv 1905.04899). The transforms are torchvision's; the choice between
them is made as in timm ``data/mixup.py``. Item i is mixed with item i - 1, the first with the last, so the batch size may be odd.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch.nn.functional as F

from zoo.data.augmentation import drawn_from, vision_transforms
from zoo.errors import ConfigError, DataError
from zoo.types import Batch


class Mix:
    """Mixup and CutMix of the images of a batch, with one mixing ratio for the whole batch; ``labels`` become probabilities.

    Args:
        num_classes: number of classes of the source.
        mixup: alpha of the Beta distribution from which mixup's ratio is drawn; 0 switches mixup off.
        cutmix: alpha of the Beta distribution for the area that CutMix pastes; 0 switches CutMix off.
        switch_probability: probability of CutMix instead of mixup if both are on.
        probability: probability that a batch is mixed at all; the labels become probabilities in any case.

    Raises:
        ConfigError: a value is out of range, both methods are off, or torchvision is missing.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch_probability: float = 0.5,
        probability: float = 1.0,
    ) -> None:
        for key, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < float("inf"):
                raise ConfigError(f"{key}: {alpha}; allowed is 0 (off) or a positive alpha, 0.8 or 1.0 in most recipes")
        for key, value in (("switch_probability", switch_probability), ("probability", probability)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{key}: {value}; allowed is a probability from 0 to 1")
        if mixup == cutmix == 0:
            raise ConfigError("mixup: 0, and cutmix: 0, so that nothing would be mixed; give one of them an alpha, or set data.mix=null")
        transforms = vision_transforms("mixup" if mixup else "cutmix")
        self.num_classes, self.probability = num_classes, probability
        self.mixup = transforms.MixUp(alpha=mixup) if mixup else None
        self.cutmix = transforms.CutMix(alpha=cutmix) if cutmix else None
        self.switch_probability = switch_probability if mixup and cutmix else float(cutmix > 0)

    def __call__(self, batch: Batch, generator: np.random.Generator) -> Batch:
        """Return the batch with mixed ``pixels`` and float ``labels`` [batch, num_classes].

        Raises:
            DataError: an item has no label.
        """
        if "labels" not in batch.targets:
            raise DataError(
                f"data.mix: not every item of the batch {', '.join(batch.ids[:3])}, ... has a label; label all, or set data.mix=null"
            )
        pixels = batch.inputs["image"]
        labels = F.one_hot(batch.targets["labels"], self.num_classes).to(pixels.dtype)  # [B, classes]
        mixed, switch = generator.random() < self.probability, generator.random() < self.switch_probability
        if mixed:
            with drawn_from(generator):
                pixels, labels = (self.cutmix if switch else self.mixup)(pixels, labels)  # type: ignore[misc]
        return replace(batch, inputs={**batch.inputs, "image": pixels}, targets={**batch.targets, "labels": labels})


def refuse_mix(class_names: Sequence[str], modalities: Sequence[str]) -> None:
    """Raise ConfigError unless batches of this source and system can be mixed.

    Args:
        class_names: class names of the source; empty if it has no classes.
        modalities: modalities that the system's processor reads; only ``["image"]`` can be mixed.
    """
    if not class_names:
        raise ConfigError("data.mix: the source at data.source has no classes to mix; give its items labels, or set data.mix=null")
    if list(modalities) != ["image"]:
        raise ConfigError(
            f"data.mix: only images and their labels can be mixed, but the system reads {', '.join(modalities)}, which would no longer "
            "match the mixed images; set data.mix=null, or choose a system that has only an image encoder"
        )

"""Mixup and CutMix of whole batches, with the soft labels that belong to them.

Papers: Zhang et al. 2017 (arXiv 1710.09412) and Yun et al. 2019 (arXiv 1905.04899); torchvision's transforms, chosen between as
in timm ``data/mixup.py``. Item i is mixed with item i - 1, the first with the last, so any number of items will do.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch.nn.functional as F

from zoo.data.augmentation import drawn_from, vision_transforms
from zoo.errors import ConfigError, DataError
from zoo.types import Batch


class Mix:
    """Mix the images of a batch in pairs, one share for the whole batch; ``labels`` become probabilities.

    Args:
        num_classes: of the source.
        mixup: alpha of the Beta distribution that blended shares come from; 0 never blends.
        cutmix: alpha for the area of a pasted rectangle; 0 never pastes.
        switch_probability: of CutMix rather than mixup, where both are on.
        probability: of mixing a batch at all; the labels are probabilities in any case.

    Raises:
        ConfigError: a value outside its range, nothing that mixes, or torchvision is missing.
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
            raise ConfigError("mixup: 0, and cutmix too: nothing would be mixed; give one of them an alpha, or set data.mix=null")
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
    """Raise ConfigError where batches of such a source and system cannot be mixed.

    Args:
        class_names: of the source.
        modalities: what the system's processor reads.
    """
    if not class_names:
        raise ConfigError("data.mix: the source at data.source has no classes to mix; give its items labels, or set data.mix=null")
    if list(modalities) != ["image"]:
        raise ConfigError(
            f"data.mix: mixes images and their labels alone, but the system reads {', '.join(modalities)}, which would no longer belong "
            "together; set data.mix=null, or choose a system with an image encoder alone"
        )

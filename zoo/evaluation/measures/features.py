"""Feature extraction for the probes: one vector per item from a frozen encoder."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation.measures.requirements import over_split
from zoo.types import Batch, Encoded, Encoder, Split, encode, encoders_of, processor_of

FEATURES = ("pooled", "mean", "cls_mean")


class FeatureReader:
    """Reader of features and labels of a split, in the split's order and without augmentation.

    Args:
        modality: the encoder to use.
        features: "pooled": the encoder's pooled vector. "mean": the mean of its tokens without class token and registers.
            "cls_mean": the class token and that mean, concatenated (twice the width).
        batch_size: number of items processed together.

    Raises:
        ConfigError: an unknown option value.
    """

    def __init__(self, *, modality: str, features: str, batch_size: int) -> None:
        if features not in FEATURES:
            raise ConfigError(f"features: there is no {features!r}; {name_choices(features, FEATURES)}")
        self.modality, self.features, self.batch_size = modality, features, batch_size

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError unless the source has the modality and the model's encoder gives the chosen features."""
        encoder = self._encoder(model)
        if self.modality not in source.modalities:
            raise ConfigError(f"evaluation.modality: the source has no {self.modality!r}; {name_choices(self.modality, source.modalities)}")
        if processor_of(model) is None:
            raise ConfigError(
                f"evaluation: {type(model).__name__} has no processor to read the data with; evaluate a system, or a saved directory "
                "that holds processor.json"
            )
        if self.features == "pooled" and not encoder.gives_pooled:
            raise ConfigError(
                f"evaluation.features: 'pooled' needs an encoder that pools, and this {type(encoder).__name__} does not; choose 'mean'"
            )
        if self.features == "cls_mean" and not encoder.has_class_token:
            raise ConfigError(
                f"evaluation.features: 'cls_mean' needs a class token, which this {type(encoder).__name__} does not have; choose "
                "'pooled' or 'mean'"
            )

    @torch.inference_mode()
    def __call__(
        self, model: Any, split: Split, *, limit: int | None, advance: Callable[[int], None]
    ) -> tuple[Float[Tensor, "n dim"], Int[Tensor, " n"]]:
        """Return the features and class numbers of a split, or of ``limit`` items spread evenly over it, on the CPU.

        Raises:
            DataError: an item cannot be used, or its features are not finite numbers; the message names it.
        """
        encoder = self._encoder(model)
        device = next(encoder.parameters()).device  # type: ignore[attr-defined]
        data = ProcessedSplit(split, Processor({self.modality: model.processor[self.modality]}))

        def vectors(batch: Batch) -> Tensor:
            batch = batch.to(device)
            encoded = encode(encoder, batch.inputs[self.modality], batch.masks.get(self.modality), grids=batch.grids.get(self.modality))
            found = self._vectors(encoded, encoder.num_prefix_tokens).float()
            bad = (~found.isfinite()).any(1).nonzero()
            if len(bad):
                raise DataError(f"item {batch.ids[int(bad[0])]}: its features are not finite; look at the item, or at the weights")
            return found

        return over_split(data, vectors, batch_size=self.batch_size, limit=limit, advance=advance)

    def _encoder(self, model: Any) -> Encoder:
        """Return the system's encoder of the modality, or the model itself if it is an encoder."""
        encoders: Mapping[str, Encoder] = encoders_of(model)
        if self.modality not in encoders:
            raise ConfigError(f"evaluation.modality: the model has no {self.modality!r} encoder; {name_choices(self.modality, encoders)}")
        return encoders[self.modality]

    def _vectors(self, encoded: Encoded, num_prefix_tokens: int) -> Float[Tensor, "batch features"]:
        if self.features == "pooled":
            assert encoded.pooled is not None  # ``check`` has refused encoders without a pooled vector
            return encoded.pooled
        weight = encoded.mask[:, num_prefix_tokens:, None].to(encoded.tokens.dtype)  # [B, N, 1]
        mean = (encoded.tokens[:, num_prefix_tokens:] * weight).sum(1) / weight.sum(1).clamp(min=1)
        return mean if self.features == "mean" else torch.cat([encoded.tokens[:, 0], mean], dim=1)  # [B, 2 * dim]


def refuse_same_split(split: str, train_split: str) -> None:
    """Raise ConfigError if the split to report on is also the split that the probe learns from."""
    if split == train_split:
        raise ConfigError(
            f"evaluation.train_split: {train_split!r} is also the split to report on; a probe needs two: choose another data.test_split"
        )

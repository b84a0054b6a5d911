"""Base class of the families of vision-language models that cut pictures into tiles."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import Tensor

from zoo.interop.base.transformers_config import filled
from zoo.interop.causal_lm import configs
from zoo.interop.llava.write import MARKER
from zoo.processors.image import ImageProcessor
from zoo.types import Tiler


class Family(ABC):
    """Names of tensors, configs and image processor of one family.

    Attributes:
        model_types: values of ``model_type`` in a ``config.json``; the first is written.
        architecture: class of transformers that is written.
        processor_class: class of transformers that puts pictures and texts together.
        tiler: our tiler that cuts the family's pictures.
        template: our chat template if a directory has none.
        encoder: our image encoder.
        marker: token of theirs that stands for a feature of a picture.
        conversation: further settings of our processor of conversations.
        other_markers: keys of their config with the ids of other special tokens, and these tokens.
        tokenizer_words: further names of special tokens in a ``tokenizer_config.json``.
    """

    model_types: ClassVar[tuple[str, ...]]
    architecture: ClassVar[str]
    processor_class: ClassVar[str]
    tiler: ClassVar[type[Tiler]]
    template: ClassVar[str]
    encoder: ClassVar[str] = "vit"
    marker: ClassVar[str] = MARKER
    conversation: ClassVar[Mapping[str, Any]] = {}
    other_markers: ClassVar[Mapping[str, str]] = {}
    tokenizer_words: ClassVar[Mapping[str, str]] = {"image_token": MARKER}

    def fits(self, tiler: Tiler | None, config: Mapping[str, Any]) -> bool:
        """Return True if the family cuts pictures as a system with this config does."""
        return type(tiler) is self.tiler

    def language(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """Convert all keywords of the language model to its config.

        Raises:
            ConfigError: the family has no language model of this form.
        """
        return configs.config(words)

    @abstractmethod
    def recognises(self, keys: Collection[str]) -> bool:
        """Return True for the names of a whole model's tensors."""

    @abstractmethod
    def system(self, config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
        """Convert a ``config.json`` to ``encoders`` and ``head`` of our system.

        Raises:
            ConfigError: our parts do not have something that the source has.
        """

    @abstractmethod
    def images(self, settings: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Convert the settings of the family's image processor to preprocessing of our encoder, and to options of our image processor.

        Raises:
            ConfigError: our processor cannot do something.
        """

    @abstractmethod
    def to_zoo(self, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
        """Convert the tensors of a file, or of a model in memory, to those of our system.

        Raises:
            WeightsError: a tensor has no place in ours.
        """

    @abstractmethod
    def from_zoo(self, tensors: Mapping[str, Tensor], language: Mapping[str, Any]) -> dict[str, Tensor]:
        """Convert the tensors of our system to theirs, under the names that files have."""

    @abstractmethod
    def config(
        self, image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], processor: ImageProcessor, marker: int
    ) -> dict[str, Any]:
        """Convert all keywords of our parts to a ``config.json``.

        Args:
            marker: id of the token that stands for a picture.

        Raises:
            ConfigError: the family does not have something that the source has; the message names the key of the system.
        """

    @abstractmethod
    def preprocessor(self, processor: ImageProcessor) -> dict[str, Any]:
        """Convert our image processor to a ``preprocessor_config.json``.

        Raises:
            ConfigError: the family cuts pictures otherwise.
        """

    @abstractmethod
    def processor_config(self, config: Mapping[str, Any], per_tile: int, prefix: int) -> dict[str, Any]:
        """Return what ``processor_config.json`` says beside the class.

        Args:
            config: of the model, as it is written.
            per_tile: features of one tile.
            prefix: tokens of the image encoder before its patches.
        """


def siglip_tower(vision: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the ``vision_config`` of a SigLIP tower without a head, completed, in the form of a ``SiglipVisionModel``."""
    return {**filled(vision, defaults), "model_type": "siglip_vision_model", "vision_use_head": False}

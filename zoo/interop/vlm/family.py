"""Base class of the families of vision-language models: those that cut pictures into tiles, and PaliGemma."""

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
        tiler: our tiler that cuts the family's pictures; None if pictures are not cut.
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
    tiler: ClassVar[type[Tiler] | None]
    template: ClassVar[str]
    encoder: ClassVar[str] = "vit"
    marker: ClassVar[str] = MARKER
    conversation: ClassVar[Mapping[str, Any]] = {}
    other_markers: ClassVar[Mapping[str, str]] = {}
    tokenizer_words: ClassVar[Mapping[str, str]] = {"image_token": MARKER}

    def fits(self, tiler: Tiler | None, config: Mapping[str, Any]) -> bool:
        """Return True if the family cuts pictures as a system with this tiler and config does."""
        return tiler is None if self.tiler is None else type(tiler) is self.tiler

    def tiler_options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return options of our tiler that the model's config gives, not its image processor; none by default.

        Raises:
            ConfigError: our tiler does not have a value.
        """
        return {}

    def video_options(
        self, config: Mapping[str, Any], settings: Mapping[str, Any], origin: str, preprocessing: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return options of our tiler for videos; none by default.

        Args:
            config: of the model.
            settings: of the family's video processor.
            origin: path of their file, for messages.
            preprocessing: of pictures, which videos share.

        Raises:
            ConfigError: our tiler does not have a value, or videos are normalised otherwise than pictures.
        """
        return {}

    def video_preprocessor(self, processor: ImageProcessor) -> dict[str, Any] | None:
        """Return a ``video_preprocessor_config.json``; None if the family's other files say everything about videos."""
        return None

    def marker_ids(self, tokenizer: Any, marker: int) -> dict[str, int]:
        """Return the ids of ``other_markers``; a token that the tokenizer lacks gets the id behind the marker.

        Args:
            tokenizer: None if there is none.
            marker: id of the token that stands for a picture.
        """
        found = {key: None if tokenizer is None else tokenizer.token_to_id(word) for key, word in self.other_markers.items()}
        return {key: marker + 1 if number is None else number for key, number in found.items()}

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
    def preprocessor(self, processor: ImageProcessor, per_tile: int) -> dict[str, Any]:
        """Convert our image processor to a ``preprocessor_config.json``.

        Args:
            per_tile: features of one tile, or of a picture that is not cut.

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


def tied_words(config: Mapping[str, Any], keys: Collection[str], *, default: bool) -> bool:
    """Return True if the output projection is the word table, which a file then does not hold twice.

    Args:
        keys: names of the weights; if there are none, the config tells.
        default: of the class.
    """
    return not any(key.endswith("lm_head.weight") for key in keys) if keys else bool(config.get("tie_word_embeddings", default))

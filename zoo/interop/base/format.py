"""Base class of foreign formats: the files in which another library keeps one family of models."""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.files import Use
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer
from zoo.processors.tokenizers.piece_tokenizer import AnyTokenizer
from zoo.registry import find_part
from zoo.storage.files import WEIGHTS_FILE
from zoo.storage.tensors import write_tensors
from zoo.types import config_of

if TYPE_CHECKING:
    from zoo.interop.base.source import Source

log = logging.getLogger("zoo")

CONFIG_SAYS, KEYS_SAY, MAYBE, UNSAID, NO = 1.0, 0.5, 0.2, 0.1, 0.0  # certainty of ``Format.recognises``
OTHER_FAMILY = "a model of another family"
SIZES = {  # by modality: keywords of an encoder that its processor needs; the first one tells the modality
    "text": ("vocab_size", "context_length"),
    "audio": ("num_mels", "context_length"),
    "image": ("image_size",),
}


class NotDescribedError(WeightsError):
    """Weights that do not say which model they belong to."""


@dataclass(frozen=True)
class Description:
    """Architecture, processor and tokenizer that a foreign source describes.

    Attributes:
        config: the content of the ``config.yaml`` that the same model has here: an encoder, or a system.
        tokenizer: the tokenizer beside the weights.
        target_tokenizer: of the texts that the model writes; None if it is the same.
        certain: False if the source does not tell the activation it was trained with, as bare weights do not.
        left_out: parts and files of the source that are not used, in words.
        conversation: the tokenizer of a language model.
        tells_processing: False if the source has no preprocessing settings.
        saved: the processor, if the source holds one that zoo saved.
    """

    config: dict[str, Any]
    tokenizer: AnyTokenizer | None = None
    certain: bool = True
    left_out: tuple[str, ...] = ()
    conversation: GivenTokenizer | None = None
    tells_processing: bool = True
    saved: Processor | None = None
    target_tokenizer: AnyTokenizer | None = None

    def processor(self) -> Processor | None:
        """Build the processor that goes with the weights; None if the source does not describe one."""
        if self.saved is not None or not self.tells_processing:
            return self.saved
        parts = {modality: find_part("processor", modality)(**settings) for modality, settings in self.processors().items()}
        for name in ("transcript",) if "transcript" in parts else ("text", "target_text"):
            if name in parts and (tokenizer := self.tokenizer_of(name)) is not None:
                parts[name].use(tokenizer)
        if self.conversation is not None:
            parts["conversation"].use(self.conversation)
        return Processor(parts)

    def tokenizer_of(self, part: str) -> AnyTokenizer | None:
        """Return the tokenizer of the processor ``part``; None if the source has none."""
        return self.target_tokenizer if part == "target_text" and self.target_tokenizer is not None else self.tokenizer

    def processors(self) -> dict[str, dict[str, Any]]:
        """Return all settings of the processor of each modality that the source describes."""
        encoders = self.config["system"]["encoders"] if "system" in self.config else {None: self.config["encoder"]}
        given = self.config.get("system", self.config).get("processor") or {}
        found = {}
        for modality, encoder in encoders.items():
            modality = modality or next((m for m, size in SIZES.items() if m in given or size[0] in encoder), "image")
            if modality == "image" and not encoder.get("preprocessing"):
                continue
            own = {**{key: encoder[key] for key in SIZES[modality] if key in encoder}, **encoder.get("preprocessing", {})}
            found[modality] = {**own, **(given.get(modality) or {})}
        if "conversation" in given:
            language, facts = self.config["system"]["head"]["language"], ("vocab_size", "context_length")
            found["conversation"] = {**{key: language[key] for key in facts if key in language}, **given["conversation"]}
        for name in ("transcript", "target_text"):
            if name in given:
                found[name] = {**self._sizes_of_head(), **given[name]}
        return found

    def _sizes_of_head(self) -> dict[str, int]:
        """Return the sizes that a processor of targets takes from the head, whose vocabulary may be that of the text encoder."""
        system = self.config["system"]
        vocab_size = system["head"].get("vocab_size") or system["encoders"]["text"]["vocab_size"]
        return {"vocab_size": vocab_size, "context_length": system["head"]["context_length"]}


@dataclass(frozen=True)
class Export:
    """Contents of a directory of another library.

    Attributes:
        files: by name: text and bytes as they are, anything else as JSON.
        tensors: returns the weights under the library's names; called when they are written.
        weights: name of their file.
        save: writes the weights, if their file is not safetensors.
    """

    files: Mapping[str, Any]
    tensors: Callable[[], Mapping[str, Tensor]]
    weights: str = WEIGHTS_FILE
    save: Callable[[Mapping[str, Tensor], Path], object] = write_tensors

    def write(self, folder: Path) -> None:
        """Write all files."""
        self.save(self.tensors(), folder / self.weights)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
                continue
            text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8", newline="")


class Format(ABC):
    """One family of models in the files of other libraries; registered as kind "format".

    A subclass stands in a file of ``zoo/interop/`` or in the file ``format.py`` of a folder there, which gives it its name. It defines
    ``recognises``, ``describe`` and ``read``; one that can also write names its ``targets`` and defines ``prepare``.

    Attributes:
        name: of the file or folder, for messages.
        targets: names that ``zoo.export(format=...)`` takes; several formats may share one.
        takes: the models that ``prepare`` takes, in words.
        model_types: values of ``model_type`` in a ``config.json`` of transformers that the format describes.
        files: pattern of a path in the directory -> treatment (``zoo.interop.base.files``); every file that the library writes is listed.
    """

    name: ClassVar[str] = ""
    targets: ClassVar[Sequence[str]] = ()
    takes: ClassVar[str] = ""
    model_types: ClassVar[Sequence[str]] = ()
    files: ClassVar[Mapping[str, Use]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        *_, folder, file = ("", *cls.__module__.split("."))
        cls.name = folder if file == "format" else file

    @abstractmethod
    def recognises(self, source: "Source") -> float:
        """Return how certain it is that a source has this format: 1 its config says so, 0.5 names and shapes do, 0 no.

        No tensor is read.
        """

    @abstractmethod
    def describe(self, source: "Source") -> Description:
        """Return the model that a source describes.

        Raises:
            NotDescribedError: the source does not say which model it belongs to.
            ConfigError: the model has something that our parts do not have.
            WeightsError: a file cannot be read.
        """

    @abstractmethod
    def read(self, source: "Source", part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Return the tensors of a source under our names.

        Args:
            source: as ``recognises`` knows it.
            part: dotted name of a part of the described system; "" is the whole, and ``encoder`` an encoder without its classifier.
            into: the model or part that will take the tensors; None is the one that ``describe`` describes. It decides what weights
                alone leave open, for example if the output projection is tied to the word table.

        Raises:
            WeightsError: a tensor is unknown or missing.
        """

    def writes(self, model: nn.Module, target: str = "") -> str | None:
        """Return None if the format can write a model, else the reason; ``OTHER_FAMILY`` for a model that it never writes."""
        if config_of(model).get("adapters"):
            return "it has adapters; merge them into its weights first: zoo.layers.adapters.merge(model)"
        try:
            return OTHER_FAMILY if self.prepare(model, target or self.targets[0], Path(self.name)) is None else None
        except ConfigError as error:
            return str(error)

    def write(self, model: nn.Module, folder: Path, target: str = "", directory: Path | None = None) -> None:
        """Write a model's files into an empty folder.

        Args:
            model: a model for which ``writes`` returns None.
            folder: exists and is empty.
            target: one of ``targets``; "" is the first.
            directory: the place that the folder is moved to afterwards, for files that hold their own path; None if it stays.
        """
        export = self.prepare(model, target or self.targets[0], directory or folder)
        if export is None:
            raise ConfigError(f"export: {self.name} takes {self.takes}; {type(model).__name__} is {OTHER_FAMILY}")
        export.write(folder)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return the files of a model; None for a model of another family.

        Args:
            model: without adapters.
            target: one of ``targets``.
            directory: the place where the files will lie.

        Raises:
            ConfigError: the target does not have something that the model has; the message names the config key.
        """
        return None

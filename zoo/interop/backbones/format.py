"""Models of timm and transformers that zoo hosts as they are, and that no other format converts."""

from collections.abc import Mapping

from torch import Tensor, nn

from zoo.interop.backbones.timm_classifier import describe_classifier, read_classifier
from zoo.interop.base.format import MAYBE, NO, Description, Format
from zoo.interop.base.recognise import library_config
from zoo.interop.base.source import TRANSFORMERS, Source
from zoo.registry import register
from zoo.types import is_system


@register("format")
class Backbones(Format):
    """Directories of transformers and timm whose model type no other format knows.

    A part that hosts such a model reads them itself (``Part.read_native``); parts of ours cannot take them.
    """

    def recognises(self, source: Source) -> float:
        """Return a little certainty for every directory with a ``config.json`` that names a model."""
        named = source.library == TRANSFORMERS and (bool(source.model_type) or "architecture" in _config(source))
        return MAYBE if named else NO

    def describe(self, source: Source) -> Description:
        """Return the system of a classifier of timm; any other model raises the error that names the way out."""
        if (classifier := describe_classifier(source)) is not None:
            return classifier
        library_config(source, self)
        raise AssertionError("this format describes no model type")

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Return the tensors of a described classifier, or all under their own names, which strict loading then refuses with its report."""
        described = is_system(into) or part.startswith(("encoders.", "head"))
        return read_classifier(source, part) if described and describe_classifier(source) is not None else source.tensors


def _config(source: Source) -> Mapping[str, object]:
    from zoo.errors import ConfigError

    try:
        return source.config
    except ConfigError:
        return {}

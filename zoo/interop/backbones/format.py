"""Models of timm and transformers that zoo hosts as they are, and that no other format converts."""

from collections.abc import Mapping

from torch import Tensor, nn

from zoo.interop.base.files import CHAT, CLASSES, IMAGES, TOKENIZERS
from zoo.interop.base.files import TRANSFORMERS as TRANSFORMERS_FILES
from zoo.interop.base.format import MAYBE, NO, Description, Format
from zoo.interop.base.recognise import library_config
from zoo.interop.base.source import TRANSFORMERS, Source
from zoo.registry import register


@register("format")
class Backbones(Format):
    """Directories of transformers and timm whose model type no other format knows.

    A part that hosts such a model reads them itself (``Part.read_native``); parts of ours cannot take them.
    """

    files = {**TRANSFORMERS_FILES, **TOKENIZERS, **IMAGES, **CHAT, **CLASSES}

    def recognises(self, source: Source) -> float:
        """Return a little certainty for every directory with a ``config.json`` that names a model."""
        named = source.library == TRANSFORMERS and (bool(source.model_type) or "architecture" in _config(source))
        return MAYBE if named else NO

    def describe(self, source: Source) -> Description:
        """Raise the error that names the model type and the way out."""
        library_config(source, self)
        raise AssertionError("this format describes no model type")

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Return the tensors under their own names, which strict loading then refuses with its report."""
        return source.tensors


def _config(source: Source) -> Mapping[str, object]:
    from zoo.errors import ConfigError

    try:
        return source.config
    except ConfigError:
        return {}

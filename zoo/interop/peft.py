"""Adapters of PEFT without the weights that they belong to."""

from collections.abc import Mapping

from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo.interop.base.files import USED
from zoo.interop.base.format import CONFIG_SAYS, NO, Description, Format
from zoo.interop.base.library_files import ADAPTER_CONFIG, read_optional
from zoo.interop.base.source import PEFT, Source
from zoo.registry import register


@register("format")
class PeftAdapters(Format):
    """Directories with ``adapter_config.json`` and no weights of a whole model; refused with the name of the base."""

    files = {"*": USED}

    def recognises(self, source: Source) -> float:
        """Go by ``adapter_config.json``."""
        return CONFIG_SAYS if source.library == PEFT else NO

    def describe(self, source: Source) -> Description:
        """Raise the error that names kind and base of the adapter."""
        raise alone(source)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Raise the error that names kind and base of the adapter."""
        raise alone(source)


def alone(source: Source) -> WeightsError:
    """Return the error for an adapter without its base."""
    assert source.directory is not None
    settings = read_optional(source.directory / ADAPTER_CONFIG)
    kind, base = settings.get("peft_type", "of unknown kind"), settings.get("base_model_name_or_path")
    return WeightsError(
        f"{source.directory}: holds an adapter ({ADAPTER_CONFIG}: {kind}) of the base model {base!r}, not a whole model; merge the two "
        "with PEFT (PeftModel.from_pretrained(base, DIR).merge_and_unload().save_pretrained(NEW)), and give the new directory"
    )

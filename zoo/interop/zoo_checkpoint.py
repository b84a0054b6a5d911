"""Checkpoints that zoo wrote, and files of tensors under our own names."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from zoo.interop.base.files import HARMLESS
from zoo.interop.base.format import CONFIG_SAYS, UNSAID, Description, Format
from zoo.layers.adapters import KEY as ADAPTERS
from zoo.layers.adapters import can_be_folded, merged_tensors
from zoo.registry import register
from zoo.types import Encoder, is_system

if TYPE_CHECKING:
    from zoo.interop.base.source import Source
from zoo.interop.base.checkpoint_directory import load_processor


@register("format")
class ZooCheckpoint(Format):
    """Directories that ``zoo.save`` wrote; also weights alone under our names, whose model the user names.

    ``zoo.save`` writes them, because it takes every model and builds it again from the config.
    """

    files = {"*": HARMLESS}

    def recognises(self, source: "Source") -> float:
        """Return 1 for a directory with ``config.yaml``, and a little for every other source: our names look like no other library's."""
        return CONFIG_SAYS if source.own_config is not None else UNSAID

    def describe(self, source: "Source") -> Description:
        """Return the saved config and processor."""
        if source.own_config is None or source.directory is None:
            from zoo.interop.base.recognise import library_config, not_described  # they look up every format, this one too

            if source.directory is not None:
                library_config(source, self)
            raise not_described(source)
        saved = load_processor(source.directory, source.own_config)
        return Description(dict(source.own_config), saved=saved, tells_processing=saved is not None)

    def read(self, source: "Source", part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Return the tensors of a part; adapters are merged into the weights if the model that takes them has no adapters."""
        from zoo.interop.base.placing import below, whole_system

        config = (source.own_config or {}).get("system")
        if config is not None and not part and into is not None and not is_system(into):
            raise whole_system(source, config["encoders"])
        wanted = set() if into is None else into.state_dict().keys()
        # Names below a wrapper that no library has: training code that keeps a model of ours as self.model.
        while source.file is not None and wanted and not wanted & below(source.tensors, part).keys() and not wanted & source.keys:
            if not source.unwrap():
                break
        tensors = below(source.tensors, part) or dict(source.tensors)  # a lone encoder's file has no prefix
        tensors = _member(tensors, into) or tensors
        adapters = (config or {}).get(ADAPTERS)
        if into is None or adapters is None or not can_be_folded(adapters) or tensors.keys() == into.state_dict().keys():
            return tensors
        return below(merged_tensors(source.tensors, adapters), part)


def _member(tensors: Mapping[str, Tensor], into: nn.Module | None) -> dict[str, Tensor] | None:
    """Return the tensors of the member of a fusion (``encoders.0``, ``encoders.1``, ...) that fits an encoder; None if there is none."""
    from zoo.interop.base.placing import below

    if not isinstance(into, Encoder):
        return None
    wanted = {name: tensor.shape for name, tensor in into.state_dict().items()}
    members = sorted({".".join(name.split(".")[:2]) for name in tensors if name.startswith("encoders.")})
    found = [below(tensors, member) for member in members]
    return next((own for own in found if {name: tensor.shape for name, tensor in own.items()} == wanted), None)

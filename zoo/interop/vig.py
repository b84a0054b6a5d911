"""Published weights of Vision GNN (``vig_*.pth``, ``pvig_*.pth``) <-> our ``vig``.

Reference: huawei-noah/Efficient-AI-Backbones, ``vig_pytorch``. There every layer is a convolution and the stages of a pyramid
lie in one flat list with the downsampling between them; here 1x1 convolutions are linear and the downsampling belongs to the
block after it.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from zoo.interop.base import rules
from zoo.interop.base.format import KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.placing import EncoderNames, read_encoder
from zoo.interop.base.recognise import not_described
from zoo.interop.base.rules import Rule, named, under
from zoo.interop.base.source import Source
from zoo.interop.vit.write import refuse_family, vision_parts
from zoo.registry import register

ORIGIN = "vig"
CLASSIFIER = ("prediction",)
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _squeezed(theirs: str, ours: str) -> Rule:
    """Return the rule that turns the weight of a 1x1 convolution into a matrix."""
    return Rule((theirs,), (ours,), lambda t: [t[0].flatten(1)], lambda t: [t[0][:, :, None, None]])


def _normed_linear(theirs: str, ours: str) -> list[Rule]:
    """Return the rules that turn convolution ``.0`` and BatchNorm ``.1`` of a Sequential into one of our layers."""
    norm = named({f"{theirs}.1.{word}": f"{ours}.norm.{word}" for word in NORM})
    return [_squeezed(f"{theirs}.0.weight", f"{ours}.weight"), *named({f"{theirs}.0.bias": f"{ours}.bias"}), *norm]


def _flatten_positions(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return [tensors[0].flatten(2).transpose(1, 2).contiguous()]  # [1, rows * columns, dim]


def _unflatten_positions(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    side = math.isqrt(tensors[0].shape[1])
    return [tensors[0].transpose(1, 2).unflatten(2, (side, side)).contiguous()]  # [1, dim, rows, columns]


BLOCK = [
    *_normed_linear("0.fc1", "grapher.fc1"),
    *_normed_linear("0.graph_conv.gconv.nn", "grapher.update"),
    *_normed_linear("0.fc2", "grapher.fc2"),
    Rule(("0.relative_pos",), ("grapher.relative_positions",), lambda t: [t[0][0]], lambda t: [t[0][None]]),
    *_normed_linear("1.fc1", "feed_forward.fc1"),
    *_normed_linear("1.fc2", "feed_forward.fc2"),
    *named({"down.0.{w}": "downsample.{w}"}),
    *named({f"down.1.{word}": f"downsample.norm.{word}" for word in NORM}),
]
BODY = [
    Rule(("pos_embed",), ("positions",), _flatten_positions, _unflatten_positions),
    *named({"stem.convs.{i}.{w}": "stem.layers.{i}.{w}"}),
    *named({f"stem.norms.{{i}}.{word}": f"stem.layers.{{i}}.norm.{word}" for word in NORM}),
    *under("backbone.{i}.", "blocks.{i}.", BLOCK),
]
PREDICTION = [
    _squeezed("prediction.0.weight", "hidden.weight"),
    *named({"prediction.0.bias": "hidden.bias"}),
    *named({f"prediction.1.{word}": f"hidden_norm.{word}" for word in NORM}),
    _squeezed("prediction.4.weight", "linear.weight"),
    *named({"prediction.4.bias": "linear.bias"}),
]
STEM_KEY = re.compile(r"stem\.convs\.(\d+)\.(\w+)")
BACKBONE_KEY = re.compile(r"backbone\.(\d+)\.(.+)")


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a published ViG or Pyramid ViG."""
    return {"pos_embed", "stem.convs.0.weight", "backbone.0.0.graph_conv.gconv.nn.0.weight"} <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert a published state dict to that of our ``vig``.

    Args:
        drop: names to leave out with all below them, for example ``prediction``, the classifier.

    Raises:
        WeightsError: a tensor has no place in our encoder.
    """
    return rules.to_zoo(_numbered_by_block(tensors), BODY, origin=ORIGIN, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our ``vig`` to the published names, without classifier.

    Raises:
        WeightsError: a tensor has no place in their model.
    """
    return _numbered_by_module(rules.from_zoo(tensors, BODY, origin=ORIGIN))


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert ``prediction.*`` of the published model to the state dict of our head ``classifier_vig``."""
    return rules.to_zoo({k: v for k, v in tensors.items() if k.startswith("prediction.")}, PREDICTION, origin=ORIGIN)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our head ``classifier_vig`` to ``prediction.*``."""
    return rules.from_zoo(tensors, PREDICTION, origin=ORIGIN)


def _numbered_by_block(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Number blocks without the downsampling between them, and the stem's layers without its activations.

    ``backbone.2.conv.0.weight`` (the downsampling before block 2) becomes ``backbone.2.down.0.weight``, and what was
    ``backbone.3`` becomes ``backbone.2``; ``stem.convs.3`` and ``.4`` become ``stem.convs.1`` and ``stem.norms.1``.
    """
    found = {}
    downs = sorted({int(m[1]) for m in map(BACKBONE_KEY.fullmatch, tensors) if m and m[2].startswith("conv.")})
    for name, tensor in tensors.items():
        if m := BACKBONE_KEY.fullmatch(name):
            block = int(m[1]) - sum(down < int(m[1]) for down in downs)
            name = f"backbone.{block}.{m[2].replace('conv.', 'down.', 1) if int(m[1]) in downs else m[2]}"
        elif m := STEM_KEY.fullmatch(name):
            name = f"stem.{('convs', 'norms')[int(m[1]) % 3]}.{int(m[1]) // 3}.{m[2]}"
        found[name] = tensor
    return found


def _numbered_by_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``_numbered_by_block``."""
    found = {}
    downs = sorted({int(m[1]) for m in map(BACKBONE_KEY.fullmatch, tensors) if m and m[2].startswith("down.")})
    for name, tensor in tensors.items():
        if m := BACKBONE_KEY.fullmatch(name):
            is_down = m[2].startswith("down.")
            module = int(m[1]) + sum(down <= int(m[1]) for down in downs) - is_down
            name = f"backbone.{module}.{m[2].replace('down.', 'conv.', 1) if is_down else m[2]}"
        elif m := re.fullmatch(r"stem\.(convs|norms)\.(\d+)\.(\w+)", name):
            name = f"stem.convs.{3 * int(m[2]) + (m[1] == 'norms')}.{m[3]}"
        found[name] = tensor
    return found


@register("format")
class VisionGraphs(Format):
    """Image encoders ``vig`` and their classifiers in the published files, which hold weights alone."""

    targets = ("vig",)
    takes = "image encoders 'vig', alone or with the head 'classifier'"

    def recognises(self, source: Source) -> float:
        """Go by the names of the tensors."""
        return KEYS_SAY if recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Raise the error that names the way out: the files say nothing about the model."""
        raise not_described(source)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the encoder, and its classifier for a system."""
        return read_encoder(EncoderNames(recognises, to_zoo, CLASSIFIER, classifier_to_zoo), source, "image", part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return the published names of an encoder, perhaps with its classifier."""
        parts = vision_parts(model)
        if parts is None:
            return None
        refuse_family(parts, "vig", target)

        def tensors() -> dict[str, Tensor]:
            head = {} if parts.head is None else classifier_from_zoo(parts.head.state_dict())
            return from_zoo(parts.encoder.state_dict()) | head

        return Export({}, tensors)

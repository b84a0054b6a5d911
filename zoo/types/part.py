"""Base class of the parts that hold weights: encoders, language models and heads."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from zoo.types.processor import Processor


class Part:
    """A registered class whose weights are saved together with the config that builds it.

    Attributes:
        config: the content of ``config.yaml``, for example ``{"encoder": {"name": "vit", ...}}``; set by ``remember``. None for a part
            of a system, whose config the system keeps.
        processor: turns raw inputs into tensors; None for a part of a system, which has its own processor.
        no_weight_decay: names of own parameters (not of those of submodules) that the optimizer does not decay.
        silent_keywords: constructor keywords that change the outputs but no shape of a weight, for example ``num_heads``. Strict loading
            cannot detect a wrong value of these.
        called_apart: names of submodules (``*`` matches any text) that the part calls outside of the block that contains them. Sharded
            training gathers their weights at each such call.
        low_precision: precisions below bf16 in which the part is offered ("int8", "int4") -> names of its linear layers that keep the type
            of the weights there (``*`` matches any text). Each entry has the measured loss on a real task beside it. Every part is offered
            in fp16, which needs no entry, except to keep layers out.
        precision: description of the low precision in which the part computes, with the layers that a caller kept out of it; set by
            ``zoo.layers.low_precision.modes.set_precision``, or by ``simulate_precision`` for training that rounds. None: it computes in
            the type of its weights.
    """

    no_weight_decay: ClassVar[Sequence[str]] = ()
    silent_keywords: ClassVar[Sequence[str]] = ()
    called_apart: ClassVar[Sequence[str]] = ()
    low_precision: ClassVar[Mapping[str, Sequence[str]]] = {}
    precision: str | None = None
    config: dict[str, Any] | None = None
    processor: Processor | None = None

    def remember(self, config: Mapping[str, Any], processor: Processor | None = None) -> None:
        """Keep the config and the processor that are saved with the weights."""
        self.config = dict(config)
        self.processor = processor

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return constructor keywords in the form in which ``silent_keywords`` are compared.

        A part overrides it if a None stands for a number, or two values mean the same.

        Args:
            keywords: all of them, with defaults.
        """
        return dict(keywords)

    def after_precision(self, precision: str | None) -> None:
        """Take note of a precision below bf16 that was set, None for no such precision; called after the linear layers are marked."""

    def after_step(self) -> None:
        """Do work after each optimizer step, for example clamp a scale; nothing by default."""

    def read_native(self, source: Any) -> dict[str, Tensor] | None:
        """Read weights in the format of the library that hosts this part; None if the part has no such format.

        Args:
            source: a ``zoo.interop.base.source.Source``.
        """
        return None

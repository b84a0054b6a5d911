"""How certain a classifier is of the right class."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.data.loader import ProcessedSplit
from zoo.errors import ConfigError
from zoo.types import Evaluation, Result, verbs_of


@dataclass
class CertaintyResult(Result):
    """The mean probability of the right class."""

    metrics: dict[str, float]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)
    title: str = "probability of the right class"

    def draw(self, folder: Path) -> str:
        (folder / "certainty.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg'><text>{self.metrics}</text></svg>")
        return "certainty.svg"


class Certainty(Evaluation):
    """Mean probability that a classifier gives to the right class."""

    monitor = "certainty"

    def check(self, model: Any, source: Any) -> None:
        if "logits" not in verbs_of(model):
            raise ConfigError("evaluation: certainty needs a head with logits; choose head@system.head=classifier")

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], object] = lambda items: None) -> Result:
        self.check(model, source)
        items = ProcessedSplit(source.split(split), model.processor)
        batch = items.collate([items[i] for i in range(len(items))])
        scores = model(batch.to(model.device)).outputs["logits"].softmax(-1)
        advance(len(items))
        right = scores.gather(1, batch.targets["labels"].to(scores.device)[:, None])
        return CertaintyResult({"certainty": float(right.mean())}, len(items))

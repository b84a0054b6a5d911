"""Score of a trained reward model (head ``reward``)."""

from collections.abc import Sequence
from typing import Any

import torch

from zoo.errors import ConfigError, DataError
from zoo.registry import register
from zoo.types import Batch, Reward, SampledAnswer, verbs_of


@register("reward")
class Model(Reward):
    """Score of the whole conversation by a saved reward model, which has the tokenizer of the trained model.

    Args:
        path: run directory or saved model with head ``reward``.
    """

    def __init__(self, *, path: str) -> None:
        self.model_source = path
        self.model: Any = None

    def use(self, model: Any) -> None:
        """Take the loaded model.

        Raises:
            ConfigError: it gives no rewards.
        """
        if "reward" not in verbs_of(model):
            raise ConfigError(f"path: {self.model_source} gives no rewards; name a model with head reward")
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, answers: Sequence[SampledAnswer], references: Sequence[Sequence[str]], batch: Batch | None = None) -> list[float]:
        """Return one score per answer.

        Raises:
            DataError: there are no conversations to read.
        """
        if batch is None or self.model is None:
            raise DataError("reward 'model' reads whole conversations, which only a training run gives it")
        model = self.model.to(batch.inputs["text"].device)
        return model.head.scores(model.encode_batch(batch), batch).tolist()

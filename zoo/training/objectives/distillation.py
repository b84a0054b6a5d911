"""Distillation of a model that talks: the teacher's distribution over each next token of an answer, and its last features.

Papers: Hinton et al. 2015 (arXiv 1503.02531), section 2; Jiao et al. 2020 (TinyBERT, arXiv 1909.10351), eq. 8. Of the teacher's answers
alone (Kim and Rush 2016, arXiv 1606.07947, section 3.2) no objective is needed: let it write them (``zoo answer``) and train on these.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.losses.distillation import FEATURE_DISTANCES, feature_distillation, logit_distillation
from zoo.registry import register
from zoo.training.objectives.preference.log_probabilities import refuse_head
from zoo.types import Batch, Encoded, HeadOutput, TalkingHead

LOGITS, HIDDEN = "teacher_logits", "teacher_hidden"


@register("objective")
class Distillation:
    """A weighted sum over the supervised tokens. Needs a teacher (teacher=DIR) that reads the same tokens.

    Args:
        logits: weight of the divergence from the teacher's distribution.
        features: weight of the distance from the teacher's last hidden state, which must be as wide.
        answers: weight of the cross entropy of the data's own answers.
        temperature: above 1 shows more of what the teacher thinks of the unlikely.
        distance: of features: "mse" or "cosine".

    Raises:
        ConfigError: an unknown word, or a number out of its range.
    """

    name = "distillation"

    def __init__(
        self, *, logits: float = 1.0, features: float = 0.0, answers: float = 0.0, temperature: float = 1.0, distance: str = "mse"
    ) -> None:
        if min(logits, features, answers) < 0 or not logits + features > 0:
            raise ConfigError(f"logits, features: {logits}, {features}; allowed are weights from 0 on, and one of the two above 0")
        if not temperature > 0:
            raise ConfigError(f"temperature: {temperature}; allowed is above 0")
        if distance not in FEATURE_DISTANCES:
            raise ConfigError(f"distance: there is no {distance!r}; {name_choices(distance, FEATURE_DISTANCES)}")
        self.logits, self.features, self.answers, self.temperature, self.distance = logits, features, answers, temperature, distance

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError for a head that does not talk."""
        refuse_head(system, self.name)

    def check_teacher(self, system: Any, teacher: Any) -> None:
        """Raise ConfigError for a teacher whose logits or features cannot be held against the system's."""
        ours, theirs = system.head.language, teacher.head.language
        if self.features and ours.dim != theirs.dim:
            raise ConfigError(
                f"objective.features: the teacher's features have {theirs.dim} numbers, the system's {ours.dim}; set "
                "objective.features=0, or choose a teacher as wide"
            )
        if self.logits and ours.vocab_size != theirs.vocab_size:
            raise ConfigError(
                f"objective.logits: the teacher chooses among {theirs.vocab_size} tokens, the system among {ours.vocab_size}; choose a "
                "teacher with the same tokenizer, or train on answers that it writes (zoo answer)"
            )

    def frozen_targets(self, head: TalkingHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """What the teacher makes of the supervised tokens, in the order of the batch."""
        found = head.predictions(encoded, batch)
        kept = {LOGITS: found.logits if self.logits else None, HIDDEN: found.hidden if self.features else None}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}

    def __call__(self, head: TalkingHead, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """The weighted sum, and each part of it."""
        found = head.predictions(encoded, batch)
        if not len(found.labels):
            return HeadOutput(found.logits.sum())
        parts: dict[str, tuple[float, Tensor]] = {}
        if self.logits:
            parts["divergence"] = self.logits, logit_distillation(found.logits, batch.targets[LOGITS], temperature=self.temperature).mean()
        if self.features:
            parts["feature_distance"] = (
                self.features,
                feature_distillation(found.hidden, batch.targets[HIDDEN], distance=self.distance).mean(),
            )
        if self.answers:
            parts["answer_loss"] = self.answers, F.cross_entropy(found.logits, found.labels)
        loss = sum((weight * value for weight, value in parts.values()), start=found.logits.new_zeros(()))
        return HeadOutput(loss, {name: value.detach() for name, (_, value) in parts.items()})

"""Distillation of language models: match the teacher's next-token distribution and its last hidden states.

Papers: Hinton et al. 2015 (arXiv 1503.02531), section 2; Jiao et al. 2020 (TinyBERT, arXiv 1909.10351), eq. 8. Sequence-level
distillation (Kim and Rush 2016, arXiv 1606.07947, section 3.2) needs no objective: let the teacher write answers (``zoo answer``) and
train on them.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.losses.distillation import FEATURE_DISTANCES, feature_distillation, logit_distillation
from zoo.losses.distributed import share_of_mean
from zoo.registry import register
from zoo.training.objectives.preference.log_probabilities import refuse_head
from zoo.types import Batch, Encoded, HeadOutput, LanguageHead, Objective

LOGITS, HIDDEN = "teacher_logits", "teacher_hidden"


@register("objective")
class Distillation(Objective):
    """Weighted sum of distillation losses over the supervised tokens; needs a teacher (teacher=DIR) with the same tokenizer.

    Args:
        logits: weight of the divergence from the teacher's next-token distribution.
        features: weight of the distance from the teacher's last hidden states, which must have the same width.
        answers: weight of the cross entropy with the answers of the data.
        temperature: softmax temperature; values above 1 give more weight to improbable tokens.
        distance: distance of the features: "mse" or "cosine".

    Raises:
        ConfigError: an unknown option, or a number outside its range.
    """

    name = "distillation"
    needs_teacher = True

    def __init__(
        self, *, logits: float = 1.0, features: float = 0.0, answers: float = 0.0, temperature: float = 1.0, distance: str = "mse"
    ) -> None:
        if min(logits, features, answers) < 0 or not logits + features > 0:
            raise ConfigError(
                f"logits, features: {logits}, {features}; allowed are weights of 0 or more, with at least one of them above 0"
            )
        if not temperature > 0:
            raise ConfigError(f"temperature: {temperature}; allowed is above 0")
        if distance not in FEATURE_DISTANCES:
            raise ConfigError(f"distance: there is no {distance!r}; {name_choices(distance, FEATURE_DISTANCES)}")
        self.logits, self.features, self.answers, self.temperature, self.distance = logits, features, answers, temperature, distance

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError unless the system has a language-model head."""
        refuse_head(system, self.name)

    def check_teacher(self, system: Any, teacher: Any) -> None:
        """Raise ConfigError unless the teacher's logits and features have the same size as the system's."""
        ours, theirs = system.head.language, teacher.head.language
        if self.features and ours.dim != theirs.dim:
            raise ConfigError(
                f"objective.features: the teacher's features have width {theirs.dim}, the system's {ours.dim}; set "
                "objective.features=0, or choose a teacher of the same width"
            )
        if self.logits and ours.vocab_size != theirs.vocab_size:
            raise ConfigError(
                f"objective.logits: the teacher's vocabulary has {theirs.vocab_size} tokens, the system's {ours.vocab_size}; choose a "
                "teacher with the same tokenizer, or train on answers that the teacher writes (zoo answer)"
            )

    def frozen_targets(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return the teacher's logits and hidden states of the supervised tokens, in the order of the batch."""
        found = head.predictions(encoded, batch)
        kept = {LOGITS: found.logits if self.logits else None, HIDDEN: found.hidden if self.features else None}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}

    def __call__(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Compute the weighted loss; the metrics are its unweighted parts.

        Raises:
            DataError: the batch has no targets of the teacher.
        """
        found = head.predictions(encoded, batch)
        # Without supervised tokens: a loss of 0 that still reaches every parameter, as distributed training needs.
        if not len(found.labels):
            return HeadOutput(share_of_mean(found.logits.sum(), 0))
        parts: dict[str, tuple[float, Tensor]] = {}
        if self.logits:
            theirs = _of_teacher(batch, LOGITS)
            parts["divergence"] = self.logits, logit_distillation(found.logits, theirs, temperature=self.temperature).mean()
        if self.features:
            theirs = _of_teacher(batch, HIDDEN)
            parts["feature_distance"] = self.features, feature_distillation(found.hidden, theirs, distance=self.distance).mean()
        if self.answers:
            parts["answer_loss"] = self.answers, F.cross_entropy(found.logits, found.labels)
        loss = sum((weight * value for weight, value in parts.values()), start=found.logits.new_zeros(()))
        return HeadOutput(share_of_mean(loss, len(found.labels)), {name: value.detach() for name, (_, value) in parts.items()})


def _of_teacher(batch: Batch, name: str) -> Tensor:
    return batch.need(
        name, "objective 'distillation'", "frozen_targets of the objective makes it with the teacher; name one with teacher=DIR"
    )

"""Exact match with a right answer, after both are normalised as in the VQA evaluation."""

from collections.abc import Sequence

from zoo.errors import DataError
from zoo.evaluation.measures.vqa_accuracy import exact_match
from zoo.registry import register
from zoo.types import Batch, Reward, SampledAnswer


@register("reward")
class Exact(Reward):
    """1 if the answer equals a right answer (case, punctuation, articles and number words aside), else 0."""

    def __call__(self, answers: Sequence[SampledAnswer], references: Sequence[Sequence[str]], batch: Batch | None = None) -> list[float]:
        """Return one score per answer.

        Raises:
            DataError: no right answer to a question is known.
        """
        if not all(references):
            raise DataError("reward 'exact': a question has no right answer; choose data with answers, for example data=digit_questions")
        return [exact_match(answer.text.strip(), known) for answer, known in zip(answers, references, strict=True)]

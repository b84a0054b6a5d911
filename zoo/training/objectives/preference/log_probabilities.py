"""Log-probabilities of the last answer of each conversation, shared by the preference objectives."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.types import SUPERVISED, Batch, Encoded, LanguageHead, follow, head_of, on_host, send

REFERENCE, MISMATCHED = "reference", "mismatched_reference"  # names of the targets computed by the reference model


def refuse_head(system: Any, name: str) -> None:
    """Raise ConfigError unless the system has a language-model head."""
    head = head_of(system)
    if not isinstance(head, LanguageHead):
        raise ConfigError(f"objective: {name!r} needs a head that predicts tokens (llava); {type(head or system).__name__} does not")


def last_run(supervised: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """Keep only the last run of True in each row: ``F T T F T F`` gives ``F F F F T F``.

    Earlier answers of the assistant are thus part of the prompt.
    """
    ends = supervised & ~F.pad(supervised[:, 1:], (0, 1))  # True at the last of each run
    runs_after = ends.flip(1).cumsum(1).flip(1)  # [batch, length], number of run ends from here on
    return supervised & (runs_after == 1)


def answers_of(batch: Batch) -> Bool[Tensor, "batch length"]:
    """Return the mask of supervised tokens.

    Raises:
        DataError: the batch has none.
    """
    return batch.need(SUPERVISED, "a preference objective", "the processor 'conversation' makes it; choose data=preferences")


def reference_of(batch: Batch, target: str, name: str) -> Tensor:
    """Return what the frozen reference model computed for a batch (``Objective.frozen_targets``).

    Raises:
        DataError: the batch has no such target.
    """
    return batch.need(target, f"objective {name!r}", "frozen_targets of the objective makes it with the reference model, before the loss")


def groups_of(batch: Batch, name: str) -> Int[Tensor, " batch"]:
    """Return the numbers that are equal for answers to the same prompt.

    Raises:
        DataError: the batch has none.
    """
    return batch.need("groups", f"objective {name!r}", "a source of pairs makes them; choose data=preferences")


def of_last_answers(batch: Batch) -> Batch:
    """Return the batch with only the last answer of each conversation supervised."""
    return replace(batch, targets={**batch.targets, SUPERVISED: follow(last_run, answers_of(batch))})


def log_probabilities(head: LanguageHead, encoded: dict[str, Encoded], batch: Batch, *, per_token: bool = False) -> Float[Tensor, " batch"]:
    """Return the log-probability of each conversation's last answer given the text before it.

    Args:
        per_token: mean over the answer's tokens instead of the sum.
    """
    found = head.predictions(encoded, of_last_answers(batch))
    each = -F.cross_entropy(found.logits, found.labels, reduction="none")  # [tokens]
    sums = each.new_zeros(len(batch.inputs["text"])).index_add(0, found.rows, each)
    return sums / found.rows.bincount(minlength=len(sums)).clamp(min=1) if per_token else sums


def labels_of(batch: Batch, name: str) -> Bool[Tensor, " batch"]:
    """Return a mask that is True at preferred or desirable answers.

    Raises:
        DataError: the batch's items have no labels.
    """
    labels = batch.need("labels", f"objective {name!r} (preference labels)", "choose data=preferences")
    return follow(lambda labels: labels.bool(), labels)


def pairs(batch: Batch, name: str) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Return the rows of the chosen answers, and the rows of the rejected answers to the same prompts.

    Raises:
        DataError: the batch contains an answer without its counterpart.
    """
    labels = labels_of(batch, name)
    better, groups = on_host(labels), on_host(groups_of(batch, name))
    order = groups.argsort(stable=True)
    chosen, rejected = order[better[order]], order[~better[order]]
    if len(chosen) != len(rejected) or not torch.equal(groups[chosen], groups[rejected]):
        raise DataError(
            f"objective {name}: the batch {', '.join(batch.ids[:4])}, ... does not hold whole pairs of a chosen and a rejected answer; "
            "give data=preferences rows with both, an even training.batch_size, and no data.on_bad_item=skip"
        )
    return send(chosen, labels.device), send(rejected, labels.device)


def mismatched(batch: Batch, limit: int) -> Batch:
    """Combine each prompt with the last answer of the next row of another group; images and audio stay with the prompts.

    Prompts ``p q r`` with answers ``a b c`` become ``pb qc ra``.

    Args:
        limit: context length of the language model in tokens; longer answers are cut.
    """
    device = batch.inputs["text"].device
    token_ids, answers = on_host(batch.inputs["text"]), last_run(on_host(answers_of(batch)))
    rows, groups = range(len(token_ids)), on_host(groups_of(batch, "kto")).tolist()
    made = []
    for row in rows:
        later = [(row + step) % len(rows) for step in range(1, len(rows))]
        # A batch with a single group has no unrelated answer: take the next row.
        other = next((index for index in later if groups[index] != groups[row]), later[0] if later else row)
        end = int(answers[row].int().argmax()) if bool(answers[row].any()) else len(answers[row])
        answer = token_ids[other][answers[other]][: max(limit - end, 0)]
        made.append((token_ids[row, :end], answer))
    length = max(len(prompt) + len(answer) for prompt, answer in made)
    texts, mask = token_ids.new_zeros(len(rows), length), torch.zeros(len(rows), length, dtype=torch.bool)
    supervised = mask.clone()
    for row, (prompt, answer) in enumerate(made):
        whole = len(prompt) + len(answer)
        texts[row, :whole], mask[row, :whole], supervised[row, len(prompt) : whole] = torch.cat([prompt, answer]), True, True
    return replace(
        batch,
        inputs={**batch.inputs, "text": send(texts, device)},
        masks={**batch.masks, "text": send(mask, device)},
        targets={**batch.targets, SUPERVISED: send(supervised, device)},
    )

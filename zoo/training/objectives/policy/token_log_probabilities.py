"""Log-probabilities of the tokens of sampled answers, and the names of the targets of sampled batches."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.errors import DataError
from zoo.types import Batch, Encoded, LanguageHead, Predictions

REWARD = "reward"  # weighted sum of the reward functions [answers]
REWARD_PART = "reward_"  # before the name of one reward function [answers]
LENGTHS, FINISHED = "answer_lengths", "answer_finished"  # tokens of an answer, and 1 if it ended by itself [answers]
ADVANTAGES = "advantages"  # [answers] for GRPO, [tokens] for PPO
SAMPLED, REFERENCE = "sampled_log_probabilities", "reference_log_probabilities"  # [tokens]
STEP_TOKENS = "step_tokens"  # mean number of tokens per batch of the optimizer step, over all batches and processes []
ITEMS = "items_"  # before a modality: row of the encoder's output for each item of the answers, which share those of their prompt [items]
REMEDY = "the run samples answers and makes it before the loss"


def of_answers(encoded: dict[str, Encoded], batch: Batch) -> dict[str, Encoded]:
    """Return the encoded items in the order of the answers: each prompt's items once per answer."""
    found = {}
    for modality, each in encoded.items():
        rows = batch.targets.get(ITEMS + modality)
        picked = each if rows is None else Encoded(each.tokens[rows], None if each.pooled is None else each.pooled[rows], each.mask[rows])
        found[modality] = picked
    return found


def predict_tokens(head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> tuple[Predictions, Float[Tensor, " tokens"]]:
    """Return the predictions of the sampled tokens, and the log-probability of each of them.

    Raises:
        DataError: the batch holds no supervised token.
    """
    found = head.predictions(of_answers(encoded, batch), batch)
    if not len(found.labels):
        raise DataError(f"the batch {', '.join(batch.ids[:3])}, ... holds no token of an answer; {REMEDY}")
    return found, -F.cross_entropy(found.logits, found.labels, reduction="none")


def entropy_of(logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, ""]:
    """Return the mean entropy of the next-token distributions in nats, without gradient."""
    log = logits.detach().log_softmax(-1)
    return -(log.exp() * log).sum(-1).mean()


def answer_metrics(batch: Batch) -> dict[str, Tensor]:
    """Return the mean reward (and that of each function), length and share of finished answers, as far as the batch has them."""
    names = {REWARD: "reward", LENGTHS: "answer_length", FINISHED: "finished"}
    found = {shown: batch.targets[name].float().mean() for name, shown in names.items() if name in batch.targets}
    parts = {name: tensor.mean() for name, tensor in batch.targets.items() if name.startswith(REWARD_PART)}
    return {**found, **parts}


def need_per_token(batch: Batch, name: str, objective: str, tokens: int) -> Float[Tensor, " tokens"]:
    """Return a target with one number per sampled token.

    Raises:
        DataError: the batch has none, or of another number of tokens.
    """
    found = batch.need(name, f"objective {objective!r}", REMEDY)
    if found.shape != torch.Size([tokens]):
        raise DataError(f"targets[{name!r}] has the shape {list(found.shape)}, but the answers have {tokens} tokens; {REMEDY}")
    return found

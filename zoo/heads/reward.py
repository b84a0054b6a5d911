"""Head reward: a score of a whole conversation, from a language model with image or audio tokens in its input.

Papers: Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), section 3.5; Touvron et al. 2023 (Llama 2, arXiv 2307.09288), section 3.2.2.
References: transformers 5.17 (``LlamaForSequenceClassification`` with one label), TRL 1.16 (``RewardTrainer``). Where we differ: the mask
marks the last real token, where transformers searches the last id that is not the padding id; padding may therefore be on either side, and
may have the id of an end token. Answers are compared within a batch: all answers to one prompt must be in the same batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.heads.bases.media_features import Connected, features_of
from zoo.heads.bases.multimodal_lm import MultimodalLM, conversation_part, conversation_tensors, conversations_of
from zoo.losses.distributed import share_of_mean
from zoo.losses.reward import centring_losses, ranking_losses
from zoo.registry import register
from zoo.types import IGNORED, Batch, Encoded, EncoderSpec, HeadOutput, LanguageModel, Predictions, SystemLike, on_host, send

CONNECTORS: dict[str, str | Mapping[str, Any]] = {"image": "mlp", "audio": "downsampler"}
REMEDY = "choose data=preferences"


@register("head")
class Reward(MultimodalLM):
    """Score of a conversation: a linear layer on the hidden state of its last token.

    The loss is the mean over prompts of the mean over all pairs of their answers, of which the one with the higher label is preferred.

    Args:
        inputs: output sizes of the encoders, by modality.
        language: causal language model; its output projection is not used, and a separate one is removed.
        connectors: see ``Llava``.
        feature_layer: encoder layer that the connectors read.
        class_token: True gives the connectors the class token before the patches, if the encoder has one.
        margin: difference of the scores of a pair from which on it counts as well separated (Llama 2).
        centring: weight of the squared sum of the scores of a pair, which keeps their mean near 0 (TRL: 0.01).

    Raises:
        ConfigError: as ``Llava``, or a number below 0.
    """

    verbs = ("reward",)
    evaluation = "ranking"
    silent_keywords = ("feature_layer", "class_token")

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        language: LanguageModel,
        connectors: Mapping[str, str | Mapping[str, Any]] = CONNECTORS,
        feature_layer: int | Sequence[int] | None = -2,
        class_token: bool = False,
        margin: float = 0.0,
        centring: float = 0.0,
    ) -> None:
        super().__init__(inputs=inputs, language=language, connectors={**CONNECTORS, **connectors}, feature_layer=feature_layer)
        for key, value in (("margin", margin), ("centring", centring)):
            if not value >= 0:
                raise ConfigError(f"{key}: {value}; allowed is 0 or more")
        language.drop_output()
        self.class_token, self.margin, self.centring = class_token, margin, centring
        self.output = nn.Linear(language.dim, 1, bias=False)
        nn.init.normal_(self.output.weight, std=(language.dim + 1) ** -0.5)  # scores of variance 1 at most, as in InstructGPT's code

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss of a batch of answers, with the metrics ``pair_accuracy`` and ``reward_margin`` (mean difference of pairs).

        Raises:
            DataError: the batch has no labels, or an answer without another one to compare it with.
        """
        scores = self.scores(encoded, batch)
        if scores.is_meta:  # meta tensors hold no labels to compare
            return HeadOutput(scores.mean(), {}, {"scores": scores})
        better, worse, prompts = ranked_pairs(batch)  # on the CPU, where counting them waits for no device
        if not len(better):  # nothing is ranked: the loss is 0 and still depends on every parameter
            return HeadOutput(share_of_mean(scores.sum(), 0), {}, {"scores": scores.detach()})
        counts = prompts.bincount()  # pairs of each prompt
        weights = 1 / (counts[prompts] * len(counts))
        better, worse, weights = (send(each, scores.device) for each in (better, worse, weights))
        losses = ranking_losses(scores[better], scores[worse], margin=self.margin)
        if self.centring:
            losses = losses + self.centring * centring_losses(scores[better], scores[worse])
        loss = (losses * weights).sum()
        difference = (scores[better] - scores[worse]).detach()
        metrics = {"pair_accuracy": (difference > 0).float().mean(), "reward_margin": difference.mean()}
        return HeadOutput(share_of_mean(loss, len(counts)), metrics, {"scores": scores.detach()})

    def scores(self, encoded: Mapping[str, Encoded], batch: Batch) -> Float[Tensor, " batch"]:
        """Return the score of each conversation of a batch.

        Raises:
            DataError: the batch has no conversations, or an empty one.
        """
        return self._scores(self._connected(encoded, batch), batch)

    def _scores(self, features: Connected, batch: Batch) -> Float[Tensor, " batch"]:
        token_ids, mask, _ = conversation_tensors(batch)
        states, places = self._states(self.spliced(token_ids, mask, features, batch.ids), mask)
        if token_ids.is_meta:
            return self.output(states[: len(token_ids)])[:, 0].float()
        last = _places_of_last(on_host(mask), on_host(places))
        return self.output(states[send(last, states.device)])[:, 0].float()

    def predictions(self, encoded: dict[str, Encoded], batch: Batch) -> Predictions:
        """Return next-token predictions, if the output projection of the language model is its word table.

        Raises:
            ConfigError: it was another matrix, which this head removed.
        """
        if self.language.drops_output:
            raise ConfigError("head 'reward' scores conversations and has no output over the vocabulary; choose a system with head llava")
        return super().predictions(encoded, batch)

    @torch.inference_mode()
    def reward(self, system: SystemLike, prompts: Sequence[Any], answers: Sequence[str], *, batch_size: int = 8) -> Float[Tensor, " n"]:
        """Return the score of each answer to its prompt.

        Args:
            prompts: as in ``generate`` of a LLaVA.

        Raises:
            DataError: the numbers of answers and prompts differ, or an answer is empty.
        """
        if isinstance(answers, str) or len(answers) != len(prompts):
            raise DataError(f"answers: got {len(answers)} for {len(prompts)} prompts; give a list with one string for each prompt")
        pairs = conversations_of(conversation_part(system), prompts, answers)
        scores, kept = [], {}
        for start in range(0, len(pairs), batch_size):
            batch: Batch = system.processor(conversation=pairs[start : start + batch_size])  # type: ignore[misc]
            features = features_of(self, system, batch, kept)
            scores.append(self._scores(features, batch.to(system.device)))
        return torch.cat(scores)


def ranked_pairs(batch: Batch) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Return the rows of the better and of the worse answer of each pair, and the number of its prompt, on the CPU.

    Labels ``2 1 0`` of one group give the pairs ``01 02 12``; an answer whose label is ``IGNORED`` is in no pair.

    Raises:
        DataError: the batch has no labels or groups, or an answer without another one to compare it with.
    """
    ranks = on_host(batch.need("labels", "head 'reward' (order of the answers)", REMEDY))
    groups = on_host(batch.need("groups", "head 'reward' (answers to the same prompt)", REMEDY))
    ranked = ranks != IGNORED
    is_better = (groups[:, None] == groups) & (ranks[:, None] > ranks) & ranked & ranked[:, None]  # [batch, batch]
    alone = ranked & ~(is_better.any(0) | is_better.any(1))
    if bool(alone.any()):
        row = int(alone.int().argmax())
        name = batch.ids[row] if batch.ids else row
        raise DataError(
            f"head 'reward': the batch holds no better or worse answer than {name} to the same prompt; give data=preferences pairs or "
            "ranked answers, and a training.batch_size that is a multiple of the answers per prompt"
        )
    better, worse = is_better.nonzero(as_tuple=True)
    _, prompts = groups[better].unique(return_inverse=True)
    return better, worse, prompts


def _places_of_last(mask: Bool[Tensor, "batch length"], places: Int[Tensor, " total"]) -> Int[Tensor, " batch"]:
    """Return the index among the states of the last real token of each row; padding may be on either side.

    Args:
        places: index in the flat batch of each state.
    """
    if not bool(mask.any(1).all()):
        raise DataError(f"conversation {int((~mask.any(1)).int().argmax())} has no token; give each a text")
    length = mask.shape[1]
    last = length - 1 - mask.flip(1).int().argmax(1)  # [batch]
    where = torch.full((mask.numel(),), -1)
    where[places] = torch.arange(len(places))
    return where[torch.arange(len(mask)) * length + last]

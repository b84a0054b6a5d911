"""Direct preference optimisation (DPO): raise the probability of chosen over rejected answers, relative to a reference model.

Paper: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. Reference: TRL's ``DPOTrainer``.
"""

from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError
from zoo.losses.preference import dpo_loss
from zoo.registry import register
from zoo.training.objectives.preference.pair_objective import PairObjective


@register("objective")
class Dpo(PairObjective):
    """DPO objective on pairs of answers (data=preferences).

    The reference is the teacher, or without a teacher the model as it was at the beginning of the run.

    Args:
        beta: strength of the penalty for moving away from the reference; large values stay near it.
        label_smoothing: assumed share of pairs whose labels are swapped, from 0 to below 0.5.
        per_token: use mean instead of summed log-probabilities per answer, so that long answers do not weigh more.

    Raises:
        ConfigError: a number is outside its range.
    """

    name = "dpo"

    def __init__(self, *, beta: float = 0.1, label_smoothing: float = 0.0, per_token: bool = False) -> None:
        super().__init__(beta=beta, per_token=per_token)
        if not 0 <= label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing: {label_smoothing}; allowed is from 0 to below 0.5")
        self.label_smoothing = label_smoothing

    def loss(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """Return the loss of each pair; see ``zoo.losses.preference.dpo_loss``."""
        return dpo_loss(chosen, rejected, beta=self.beta, label_smoothing=self.label_smoothing)

"""Identity preference optimisation (IPO): pull the reward margin of chosen over rejected answers to a fixed value.

Paper: Azar et al. 2023 (arXiv 2310.12036), eq. 17. Reference: TRL's ``DPOTrainer`` with ``loss_type="ipo"``, which takes means over tokens.
"""

from jaxtyping import Float
from torch import Tensor

from zoo.losses.preference import ipo_loss
from zoo.registry import register
from zoo.training.objectives.preference.pair_objective import PairObjective


@register("objective")
class Ipo(PairObjective):
    """IPO objective on pairs of answers (data=preferences).

    The reference is the teacher, or without a teacher the model as it was at the beginning of the run.

    Args:
        beta: tau in the paper; the target of the reward margin is ``1 / (2 beta)``.
        per_token: use mean log-probabilities per answer, as in TRL; False uses sums, as in the paper.

    Raises:
        ConfigError: a number is outside its range.
    """

    name = "ipo"

    def __init__(self, *, beta: float = 0.1, per_token: bool = True) -> None:
        super().__init__(beta=beta, per_token=per_token)

    def loss(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """Return the loss of each pair; see ``zoo.losses.preference.ipo_loss``."""
        return ipo_loss(chosen, rejected, beta=self.beta)

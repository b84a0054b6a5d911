"""Identity preference optimisation: the margin of a chosen answer over a rejected one is drawn to a number, and not ever further.

Paper: Azar et al. 2023 (arXiv 2310.12036), eq. 17. Reference: TRL's ``DPOTrainer`` with ``loss_type="ipo"``, which takes means over tokens.
"""

from jaxtyping import Float
from torch import Tensor

from zoo.losses.preference import ipo_loss
from zoo.registry import register
from zoo.training.objectives.preference.pair_objective import PairObjective


@register("objective")
class Ipo(PairObjective):
    """Needs pairs (data=preferences); the reference is the teacher, or the model as it was when the run began.

    Args:
        beta: the paper's tau; the margin is drawn to ``1 / (2 beta)``.
        per_token: rewards are means over an answer's tokens, as in TRL; false takes the paper's sums.

    Raises:
        ConfigError: a number out of its range.
    """

    name = "ipo"

    def __init__(self, *, beta: float = 0.1, per_token: bool = True) -> None:
        super().__init__(beta=beta, per_token=per_token)

    def loss(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """See ``zoo.losses.preference.ipo_loss``."""
        return ipo_loss(chosen, rejected, beta=self.beta)

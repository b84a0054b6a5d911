"""Direct preference optimisation: a chosen answer gains on a rejected one, as measured from a reference.

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
    """Needs pairs (data=preferences); the reference is the teacher, or the model as it was when the run began.

    Args:
        beta: large values stay near the reference.
        label_smoothing: the share of pairs that are believed to be the wrong way round.
        per_token: rewards are means over an answer's tokens, so that long answers do not weigh more.

    Raises:
        ConfigError: a number out of its range.
    """

    name = "dpo"

    def __init__(self, *, beta: float = 0.1, label_smoothing: float = 0.0, per_token: bool = False) -> None:
        super().__init__(beta=beta, per_token=per_token)
        if not 0 <= label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing: {label_smoothing}; allowed is from 0 to below 0.5")
        self.label_smoothing = label_smoothing

    def loss(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """See ``zoo.losses.preference.dpo_loss``."""
        return dpo_loss(chosen, rejected, beta=self.beta, label_smoothing=self.label_smoothing)

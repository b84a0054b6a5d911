"""Best of n: the price of choosing the best of n sampled answers, and an unbiased estimate of its reward.

Papers: Stiennon et al. 2020 (arXiv 2009.01325), appendix G.3, for the divergence; Nakano et al. 2021 (WebGPT, arXiv 2112.09332), appendix
I, for the estimate.
"""

import math
from collections.abc import Sequence


def divergence_bound(number: int) -> float:
    """Return an upper bound of KL(best of ``number`` answers, one answer) in nats: log n - (n - 1) / n."""
    return math.log(number) - (number - 1) / number


def best_of_estimate(rewards: Sequence[float], k: int) -> float:
    """Return the expected highest of ``k`` of these rewards, without replacement: an unbiased estimate of the reward of best-of-k.

    Of 0.1, 0.4, 0.4 and 0.9, half of the six pairs hold 0.9 and half have the maximum 0.4: 0.65.

    Args:
        k: from 1 to the number of rewards.
    """
    ordered = sorted(rewards)
    pairs = enumerate(ordered, start=1)
    return sum(math.comb(place - 1, k - 1) * reward for place, reward in pairs) / math.comb(len(ordered), k)

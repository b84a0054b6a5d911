"""Cross entropy with label smoothing, in the two conventions of the literature.

Source: Szegedy et al. 2015 (arXiv 1512.00567), section 7; Vaswani et al. 2017 (arXiv 1706.03762), section 5.4.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

FORMS = ("all", "others")


def smoothed_cross_entropy(
    logits: Float[Tensor, "num_tokens vocab_size"], labels: Int[Tensor, " num_tokens"], *, smoothing: float, over: str = "all"
) -> Float[Tensor, ""]:
    """Return the sum over the tokens of the cross entropy against smoothed labels.

    With logits 2, .5, -1, 0, 1, label 0 and smoothing 0.1, "all" gives 0.7244379 and "others" 0.7619379.

    Args:
        logits: scores of each vocabulary entry.
        labels: the right entry.
        smoothing: share of the probability that is taken from the right entry; 0 is the plain cross entropy.
        over: entries that receive it in equal parts: "all", the right one included (torch, transformers), or the "others" (tensor2tensor,
            fairseq).
    """
    if over == "all" or not smoothing:
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    surprise = -logits.log_softmax(-1)  # [num_tokens, vocab_size]
    right = surprise.gather(1, labels[:, None])[:, 0]
    each = smoothing / (logits.shape[1] - 1)
    return ((1 - smoothing - each) * right + each * surprise.sum(1)).sum()

"""Distillation losses between the outputs of a student and a teacher, as pure functions.

Papers: Hinton et al. 2015 (arXiv 1503.02531), section 2, for logits; Romero et al. 2015 (FitNets, arXiv 1412.6550), eq. 3, and Jiao et
al. 2020 (TinyBERT, arXiv 1909.10351), eq. 8, for features.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError, name_choices

FEATURE_DISTANCES = ("mse", "cosine")


def logit_distillation(
    student: Float[Tensor, "rows classes"], teacher: Float[Tensor, "rows classes"], *, temperature: float = 1.0
) -> Float[Tensor, " rows"]:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of each row.

    Args:
        student: logits of the student.
        teacher: logits of the teacher.
        temperature: T. Values above 1 give unlikely classes more weight; the factor T^2 keeps the size of the gradients.
    """
    ours, theirs = ((logits.float() / temperature).log_softmax(-1) for logits in (student, teacher))
    # Trap: torch's kl_div(input, target) is KL(target || input), so the student comes first.
    return temperature**2 * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)


def feature_distillation(
    student: Float[Tensor, "rows dim"], teacher: Float[Tensor, "rows dim"], *, distance: str = "mse"
) -> Float[Tensor, " rows"]:
    """Return the distance between the student's and the teacher's vector of each row.

    Args:
        student: vectors of the student.
        teacher: vectors of the teacher.
        distance: "mse", the mean square of the differences; "cosine", 1 minus the cosine.

    Raises:
        ConfigError: ``distance`` is unknown.
    """
    if distance not in FEATURE_DISTANCES:
        raise ConfigError(f"distance: there is no {distance!r}; {name_choices(distance, FEATURE_DISTANCES)}")
    if distance == "mse":
        return (student.float() - teacher.float()).square().mean(-1)
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)

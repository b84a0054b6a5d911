"""Comparisons of tensors, and the refusal when two differ."""

from typing import Any, NoReturn

from torch import Tensor

from zoo.errors import ContractError
from zoo.registry import label_of

TOLERANCE = 1e-5  # fp32: sums in another order differ by a few ulp, a leak of padding or of other rows by far more


def refuse(part: Any, rule: str, got: str, wanted: str, remedy: str) -> NoReturn:
    """Raise ContractError for a part, whose name is its own if it is no string."""
    raise ContractError(part if isinstance(part, str) else label_of(part), rule, got, wanted, remedy)


def require(fits: bool, part: Any, rule: str, got: str, wanted: str, remedy: str) -> None:
    """Raise ContractError unless a condition holds."""
    if not fits:
        refuse(part, rule, got, wanted, remedy)


def require_close(found: Tensor, expected: Tensor, part: Any, rule: str, remedy: str, *, tolerance: float = TOLERANCE) -> None:
    """Raise ContractError unless two tensors have one shape and differ by no more than the tolerance, relative to their size."""
    if found.shape != expected.shape:
        refuse(part, rule, f"the shapes are {list(found.shape)} and {list(expected.shape)}", "equal shapes", remedy)
    if not found.numel():
        return
    if not bool(found.isfinite().all()):
        refuse(part, rule, "there are values that are not finite", "finite values", remedy)
    furthest = float((found - expected).abs().max())
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    if furthest > allowed:
        refuse(part, rule, f"they differ by {furthest:.2g}", f"at most {allowed:.2g}", remedy)

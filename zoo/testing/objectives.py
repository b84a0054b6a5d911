"""Check of training objectives."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.testing.rules.comparison import refuse, require
from zoo.testing.rules.parts import check_keywords
from zoo.types import Batch, Encoded, HeadOutput, Objective


def check_objective(objective: Any, system: Any, batch: Batch, *, frozen: Any = None) -> None:
    """Check every rule of ``zoo.types.Objective``.

    Args:
        objective: any.
        system: that it can train.
        batch: of its data, without the targets of the frozen model.
        frozen: the frozen model; None takes the system itself.

    Raises:
        ContractError: a rule is broken.
    """
    fits = isinstance(objective, Objective)
    require(fits, objective, "an objective is a subclass of zoo.types.Objective", "it is none", "Objective", "write class X(Objective)")
    check_keywords(type(objective))
    objective.check(system, len(batch))
    model = system if frozen is None else frozen
    if objective.needs_teacher:
        objective.check_teacher(system, model)
    with torch.no_grad():
        targets = objective.frozen_targets(model.head, model.encode_batch(batch), batch)
    fits = isinstance(targets, Mapping) and all(isinstance(each, Tensor) and not each.requires_grad for each in targets.values())
    require(fits, objective, "frozen_targets gives detached tensors by name", f"it gives {targets!r:.80}", "{name: tensor}", "detach them")
    whole, encoded = replace(batch, targets={**batch.targets, **targets}), system.encode_batch(batch)
    output = objective(system.head, encoded, whole)
    loss = output.loss if isinstance(output, HeadOutput) else None
    scalar = loss is not None and loss.ndim == 0 and bool(loss.isfinite()) and loss.requires_grad
    rule, remedy = "a call gives HeadOutput with a finite scalar loss to train on", "return HeadOutput(loss.mean(), metrics)"
    require(
        scalar, objective, rule, f"it gives {type(output).__name__} with loss {loss!r:.60}", "a scalar that requires a gradient", remedy
    )
    wrong = [name for name, value in output.metrics.items() if not isinstance(value, Tensor) or value.ndim or value.requires_grad]
    require(not wrong, objective, "metrics are detached scalars", f"{wrong} are none", "tensors []", "detach them")
    for name in whole.targets:
        _refused(objective, system, encoded, replace(whole, targets={n: t for n, t in whole.targets.items() if n != name}), name)


def _refused(objective: Objective, system: Any, encoded: dict[str, Encoded], batch: Batch, name: str) -> None:
    """Without a target that it reads, an objective says so in an error of zoo; it may also do without."""
    try:
        with torch.no_grad():
            objective(system.head, encoded, batch)
    except ZooError:
        return
    except Exception as error:  # noqa: BLE001  # whatever it is, it is no error of zoo
        found = f"without it the call raises {type(error).__name__}: {error}"
        refuse(objective, f"a missing target {name!r} is a DataError that names it", found, "DataError", "use batch.need(...)")

"""Linear probe: logistic regression on frozen features.

Paper: Radford et al. 2021 (arXiv 2103.00020), section 3.2 and appendix A.3: L-BFGS, at most 1000 iterations, the strength of the
L2 penalty chosen on validation items by halving steps around the best. Reference: scikit-learn's ``LogisticRegression``.

Where we differ: the final fit is on the training split alone, not on training and validation together.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.features import FeatureReader, refuse_same_split
from zoo.evaluation.results.accuracy import AccuracyResult, checked_limits, measure, refuse_source
from zoo.registry import register

COARSE = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # powers of ten that C is tried at first
STEPS = (1.0, 0.5, 0.25, 0.125)  # then to both sides of the best: 8 values per decade in the end
HELD_OUT = 5  # every fifth training item, where the validation split is the one to report on

Features = tuple[Float[Tensor, "n dim"], Int[Tensor, " n"]]


@register("evaluation")
class LinearProbe:
    """Fit logistic regression on the features of the training split, and report its accuracy on another.

    Args:
        C: inverse strength of the L2 penalty (scikit-learn's word); None chooses it on the validation split, or on a fifth of
            the training split where the validation split is the one to report on.
        max_iterations: of L-BFGS.
        modality: which encoder of the system is probed.
        features: "pooled", "mean" (of the tokens) or "cls_mean" (class token and mean).
        train_limit: only so many training items, spread evenly over the split; None takes all.
        limit: only so many items of the split to report on; None takes all.
        batch_size: items at once.

    Raises:
        ConfigError: an unknown word, a number that is not positive, or scikit-learn is missing.
    """

    def __init__(
        self,
        *,
        C: float | None = None,
        max_iterations: int = 1000,
        modality: str = "image",
        features: str = "pooled",
        train_split: str = "train",
        validation_split: str = "validation",
        train_limit: int | None = None,
        limit: int | None = None,
        batch_size: int = 256,
    ) -> None:
        if C is not None and not 0 < C < math.inf:
            raise ConfigError(f"C: {C}; allowed is above 0, or null to choose it on the validation split")
        checked_limits({"max_iterations": max_iterations, "train_limit": train_limit, "limit": limit, "batch_size": batch_size})
        self.C, self.max_iterations = C, max_iterations
        self.reader = FeatureReader(modality=modality, features=features, batch_size=batch_size)
        self.train_split, self.validation_split = train_split, validation_split
        self.train_limit, self.limit = train_limit, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError or DataError where the model or the source cannot be probed so, or scikit-learn is missing."""
        _logistic_regression()
        refuse_source(source)
        self.reader.check(model, source)

    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AccuracyResult:
        """Probe a system or an encoder on one split.

        Args:
            advance: told how many more items are done.

        Raises:
            ConfigError: the model or the source cannot be probed so.
            DataError: an item cannot be used, or all training items are of one class.
        """
        self.check(model, source)
        refuse_same_split(split, self.train_split)
        train = self.reader(model, source.split(self.train_split), limit=self.train_limit, advance=advance)
        C = self.C if self.C is not None else self._chosen(model, source, split, train, advance)
        features, labels = self.reader(model, source.split(split), limit=self.limit, advance=advance)
        fitted = fit(train, C, self.max_iterations)
        iterations = int(fitted.n_iter_.max())
        details = {"C": C, "train_items": len(train[1]), "iterations": iterations, "converged": iterations < self.max_iterations}
        return measure(class_scores(fitted, features, len(source.class_names)), labels, source.class_names, details)

    def _chosen(self, model: Any, source: Any, split: str, train: Features, advance: Callable[[int], None]) -> float:
        """C by its accuracy on items that are neither fitted nor reported on."""
        features, labels = train
        if split == self.validation_split:
            held = torch.arange(len(labels)) % HELD_OUT == 0
            return sweep((features[~held], labels[~held]), (features[held], labels[held]), self.max_iterations)
        validation = self.reader(model, source.split(self.validation_split), limit=None, advance=advance)
        return sweep(train, validation, self.max_iterations)


def sweep(train: Features, validation: tuple[Float[Tensor, "held dim"], Int[Tensor, " held"]], max_iterations: int) -> float:
    """The C of highest validation accuracy, the smallest among equals, from 1e-6 to 1e6."""
    features, labels = validation
    found: dict[float, float] = {}

    def accuracy(power: float) -> float:
        if power not in found:
            guesses = fit(train, 10**power, max_iterations).predict(features.numpy())
            found[power] = float((torch.from_numpy(guesses) == labels).float().mean())
        return found[power]

    best = max(COARSE, key=accuracy)
    for step in STEPS:
        around = sorted({max(best - step, COARSE[0]), best, min(best + step, COARSE[-1])})
        best = max(around, key=accuracy)
    return 10**best


def fit(train: Features, C: float, max_iterations: int) -> Any:
    """A fitted ``LogisticRegression``; whether it converged is told in the result's details, not by a warning.

    Raises:
        DataError: all items are of one class.
    """
    features, labels = train
    if len(labels.unique()) < 2:
        raise DataError("evaluation: all training items are of one class; raise train_limit, or choose another source")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        return _logistic_regression()(C=C, max_iter=max_iterations).fit(features.numpy(), labels.numpy())


def class_scores(fitted: Any, features: Float[Tensor, "n dim"], num_classes: int) -> Float[Tensor, "n classes"]:
    """Logits; minus infinity for a class that the training items do not have."""
    logits = torch.from_numpy(fitted.decision_function(features.numpy())).float()
    if logits.ndim == 1:  # of two classes scikit-learn gives one number, the second's
        logits = torch.stack([-logits, logits], dim=1)  # [n, 2]
    scores = torch.full((len(features), num_classes), -torch.inf)
    scores[:, torch.from_numpy(fitted.classes_)] = logits
    return scores


def _logistic_regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ConfigError(
            f"evaluation: 'linear_probe' needs scikit-learn ({error}); install it with: pip install 'multimodal-zoo[probe]'"
        ) from error
    return LogisticRegression

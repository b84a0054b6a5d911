"""Linear probe: logistic regression on frozen features, standardised by mean and deviation of the training items.

Paper: Radford et al. 2021 (arXiv 2103.00020), section 3.2 and appendix A.3: L-BFGS, at most 1000 iterations, the strength of the
L2 penalty chosen on validation items by a search with halving steps. Reference: scikit-learn's ``LogisticRegression``.

Differences from the paper: the final fit uses the training split only, not training and validation together; and features are standardised,
so that L-BFGS converges on features whose scales differ (those of DINOv2 do) and one C means the same for all encoders.
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
from zoo.evaluation.measures.requirements import checked_limits, refuse_source
from zoo.evaluation.results.accuracy import AccuracyResult, measure
from zoo.registry import register
from zoo.types import Evaluation

COARSE = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # first values of log10(C)
STEPS = (1.0, 0.5, 0.25, 0.125)  # then steps of log10(C) to both sides of the best value; the last is 8 values per decade
HELD_OUT = 5  # every fifth training item is held out to choose C if the report is on the validation split

Features = tuple[Float[Tensor, "n dim"], Int[Tensor, " n"]]


@register("evaluation")
class LinearProbe(Evaluation):
    """Accuracy of logistic regression that is fitted on features of the training split.

    Args:
        C: inverse strength of the L2 penalty on standardised features (scikit-learn's name); None chooses it on the validation split, or
            on a held-out fifth of the training split if the report is on the validation split.
        max_iterations: maximum number of L-BFGS iterations.
        modality: modality of the encoder to probe.
        features: "pooled", "mean" (of the tokens) or "cls_mean" (class token and mean).
        train_split: split that the regression is fitted on.
        validation_split: split that C is chosen on.
        train_limit: maximum number of training items, spread evenly over the split; None uses all.
        limit: maximum number of items to report on, spread evenly over the split; None uses all.
        batch_size: number of items processed together.

    Raises:
        ConfigError: an unknown option value, a number that is not positive, or scikit-learn is missing.
    """

    shares_items = True
    reads_other_splits = True

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
        """Raise ConfigError if the model has no such features or scikit-learn is missing, DataError if the source has no classes."""
        _pipeline(1.0, self.max_iterations)
        refuse_source(source)
        self.reader.check(model, source)

    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AccuracyResult:
        """Probe a system or an encoder on one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: this probe cannot use the model or the source.
            DataError: an item cannot be used, or all training items are of one class.
        """
        self.check(model, source)
        refuse_same_split(split, self.train_split)
        train = self.reader(model, source.split(self.train_split), limit=self.train_limit, advance=advance)
        C = self.C if self.C is not None else self._chosen(model, source, split, train, advance)
        features, labels = self.reader(model, source.split(split), limit=self.limit, advance=advance)
        fitted = fit(train, C, self.max_iterations)
        iterations = int(fitted[-1].n_iter_.max())
        details = {"C": C, "train_items": len(train[1]), "iterations": iterations, "converged": iterations < self.max_iterations}
        return measure(class_scores(fitted, features, len(source.class_names)), labels, source.class_names, details)

    def _chosen(self, model: Any, source: Any, split: str, train: Features, advance: Callable[[int], None]) -> float:
        """Return the C with the best accuracy on items that are used neither for the fit nor for the report."""
        features, labels = train
        if split == self.validation_split:
            held = torch.arange(len(labels)) % HELD_OUT == 0
            return sweep((features[~held], labels[~held]), (features[held], labels[held]), self.max_iterations)
        validation = self.reader(model, source.split(self.validation_split), limit=None, advance=advance)
        return sweep(train, validation, self.max_iterations)


def sweep(train: Features, validation: tuple[Float[Tensor, "held dim"], Int[Tensor, " held"]], max_iterations: int) -> float:
    """Search the C of highest validation accuracy between 1e-6 and 1e6; of equal ones the smallest."""
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
    """Return a fitted pipeline of ``StandardScaler`` and ``LogisticRegression``; the result's details report convergence, no warning does.

    Raises:
        DataError: all items are of one class.
    """
    features, labels = train
    if len(labels.unique()) < 2:
        raise DataError("evaluation: all training items are of one class; raise train_limit, or choose another source")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        return _pipeline(C, max_iterations).fit(features.numpy(), labels.numpy())


def class_scores(fitted: Any, features: Float[Tensor, "n dim"], num_classes: int) -> Float[Tensor, "n classes"]:
    """Return the logits of the fitted regression; minus infinity for classes without training items."""
    logits = torch.from_numpy(fitted.decision_function(features.numpy())).float()
    if logits.ndim == 1:  # for two classes scikit-learn returns one number per item: the logit of the second class
        logits = torch.stack([-logits, logits], dim=1)  # [n, 2]
    scores = torch.full((len(features), num_classes), -torch.inf)
    scores[:, torch.from_numpy(fitted.classes_)] = logits
    return scores


def _pipeline(C: float, max_iterations: int) -> Any:
    """Return scikit-learn's pipeline, not fitted; a feature that is constant in the training items is centred only.

    Raises:
        ConfigError: scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ConfigError(f"evaluation: 'linear_probe' needs scikit-learn ({error}); install it with: zoo install probe") from error
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iterations))

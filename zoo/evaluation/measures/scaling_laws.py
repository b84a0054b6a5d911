"""Laws of the loss of a model by its size and the amount of its training data, and their fit to finished runs.

Papers: Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5; Hoffmann et al. 2022 (Chinchilla, arXiv 2203.15556), section 3.3 and appendix
D.3 (approach 3); Besiroglu et al. 2024 (arXiv 2404.10102), who found that Chinchilla's optimiser had stopped early because its loss was an
average.

The fit minimises a sum of Huber losses of log-losses, in float64 and multiplied by a large number: SciPy's tolerances are absolute for
small losses, and would otherwise end the search far from the minimum.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from zoo.errors import ConfigError, DataError, name_choices

FLOPS_PER_TOKEN = 6  # and per parameter, for forward and backward: C = 6 N D
DELTA = 1e-3  # of the Huber loss, of Chinchilla
STARTS = 24  # best points of the grid from which the search starts
LEAST_EXPONENT = 1e-3  # lower bound in the fit
FEWEST = 6  # points: both laws have four or five numbers

Array = Float[np.ndarray, " points"]


@dataclass(frozen=True)
class Points:
    """Finished runs.

    Attributes:
        parameters: number of parameters of each model.
        tokens: number of tokens that it was trained on.
        losses: its loss, in nats per token.
    """

    parameters: Array
    tokens: Array
    losses: Array

    def __post_init__(self) -> None:
        for name in ("parameters", "tokens", "losses"):
            values = getattr(self, name)
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise DataError(f"{name}: {values[~(values > 0)][:3].tolist()} among the runs; allowed are numbers above 0")

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, rows: Any) -> "Points":
        """Return some of the runs."""
        return Points(self.parameters[rows], self.tokens[rows], self.losses[rows])


@dataclass(frozen=True)
class Law:
    """A law with its numbers; ``vector`` holds them as the fit searches for them.

    ``exponents`` are the places of the numbers that must be positive: with a negative one, more data or a larger model would be worse.
    """

    vector: tuple[float, ...]
    name: ClassVar[str]
    exponents: ClassVar[tuple[int, int]]
    axes: ClassVar[tuple[tuple[float, ...], ...]]  # grid of the first guesses, one axis for each number

    @staticmethod
    def log_loss(vector: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-loss [points] of each run, and its derivative by each number [numbers, points]."""
        raise NotImplementedError

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers of the law by the names of the paper."""
        raise NotImplementedError

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the loss of a model of this size after this many tokens, in nats per token."""
        point = Points(np.array([float(parameters)]), np.array([float(tokens)]), np.ones(1))
        return float(np.exp(self.log_loss(np.array(self.vector), point)[0][0]))

    def optimum(self, flops: float) -> tuple[float, float]:
        """Return the size and the number of tokens with the smallest loss for a budget of 6 * size * tokens floating-point operations."""
        from scipy.optimize import minimize_scalar

        pairs = flops / FLOPS_PER_TOKEN
        found = minimize_scalar(
            lambda log_size: self.loss(np.exp(log_size), pairs / np.exp(log_size)),
            bounds=(0.0, float(np.log(pairs))),
            method="bounded",
            options={"xatol": 1e-10},
        )
        size = float(np.exp(found.x))
        return size, pairs / size


class Chinchilla(Law):
    """L(N, D) = E + A / N^alpha + B / D^beta; ``vector`` is (log A, log B, log E, alpha, beta). N counts all parameters."""

    name = "chinchilla"
    exponents = (3, 4)
    axes = ((0, 5, 10, 15, 20, 25), (0, 5, 10, 15, 20, 25), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2))

    @staticmethod
    def log_loss(vector: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return log-loss and derivatives. See ``Law``."""
        a, b, e, alpha, beta = vector
        log_n, log_d = np.log(points.parameters), np.log(points.tokens)
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full(len(points), e)])
        total, shares = _log_sum(terms)
        return total, np.stack([shares[0], shares[1], shares[2], -shares[0] * log_n, -shares[1] * log_d])

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers of equation 2 of the paper."""
        a, b, e, alpha, beta = self.vector
        return {"E": float(np.exp(e)), "A": float(np.exp(a)), "B": float(np.exp(b)), "alpha": alpha, "beta": beta}

    def optimum(self, flops: float) -> tuple[float, float]:
        """Return size and tokens by equation 4 of the paper."""
        a, b, _, alpha, beta = self.vector
        log_g = (np.log(alpha) + a - np.log(beta) - b) / (alpha + beta)
        pairs = np.log(flops / FLOPS_PER_TOKEN)
        log_size = log_g + beta / (alpha + beta) * pairs
        return float(np.exp(log_size)), float(np.exp(pairs - log_size))

    @classmethod
    def of(cls, E: float, A: float, B: float, alpha: float, beta: float) -> "Chinchilla":  # noqa: N803  # the paper's names
        """Make a law from the numbers of a paper."""
        return cls((float(np.log(A)), float(np.log(B)), float(np.log(E)), alpha, beta))


class Kaplan(Law):
    """L(N, D) = ((Nc / N)^(alpha_N / alpha_D) + Dc / D)^alpha_D; N leaves out the tables of words and positions.

    ``vector`` is (ratio * log Nc, log Dc, ratio, alpha_D), where ratio = alpha_N / alpha_D.
    """

    name = "kaplan"
    exponents = (2, 3)
    axes = ((0, 5, 10, 15, 20, 25, 30), (10, 15, 20, 25, 30, 35), (0.25, 0.5, 0.75, 1, 1.5), (0.02, 0.05, 0.1, 0.2, 0.4))

    @staticmethod
    def log_loss(vector: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return log-loss and derivatives. See ``Law``."""
        p, q, ratio, alpha_d = vector
        log_n, log_d = np.log(points.parameters), np.log(points.tokens)
        total, shares = _log_sum(np.stack([p - ratio * log_n, q - log_d]))
        return alpha_d * total, np.stack([alpha_d * shares[0], alpha_d * shares[1], -alpha_d * shares[0] * log_n, total])

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers of equation 1.5 of the paper."""
        p, q, ratio, alpha_d = self.vector
        with np.errstate(over="ignore"):  # of runs that do not determine the law, the scales may be infinite
            return {"N_c": float(np.exp(p / ratio)), "D_c": float(np.exp(q)), "alpha_N": ratio * alpha_d, "alpha_D": alpha_d}

    @classmethod
    def of(cls, N_c: float, D_c: float, alpha_N: float, alpha_D: float) -> "Kaplan":  # noqa: N803  # the paper's names
        """Make a law from the numbers of a paper."""
        ratio = alpha_N / alpha_D
        return cls((ratio * float(np.log(N_c)), float(np.log(D_c)), ratio, alpha_D))


LAWS: dict[str, type[Law]] = {"chinchilla": Chinchilla, "kaplan": Kaplan}
PUBLISHED: dict[str, Law] = {
    "chinchilla": Chinchilla.of(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),  # Hoffmann et al. 2022, equation 10
    "chinchilla_refit": Chinchilla.of(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),  # Besiroglu et al. 2024, table 1
    "kaplan": Kaplan.of(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103),  # Kaplan et al. 2020, equation 1.5 and table 2
}


# Kaplan et al. 2020, table 5 and section 1.2: laws with one variable, each with its scale and exponent: loss = (scale / value) ** exponent.
KAPLAN_OF_ONE: dict[str, tuple[float, float]] = {
    "parameters": (8.8e13, 0.076),  # without tables of words and positions, trained to convergence
    "tokens": (5.4e13, 0.095),  # large models with early stopping
    "petaflop_days": (3.1e8, 0.050),  # smallest compute that reaches the loss
}
CRITICAL_BATCH, CRITICAL_EXPONENT = 2e8, 0.21  # tokens, equation 1.4


def kaplan_loss(variable: str, value: float) -> float:
    """Return the loss in nats per token that Kaplan et al. give for one variable alone, if no other limits it.

    Args:
        variable: a name in ``KAPLAN_OF_ONE``.
        value: of it, above 0.

    Raises:
        ConfigError: the name is unknown, or the value is not above 0.
    """
    if variable not in KAPLAN_OF_ONE:
        raise ConfigError(f"variable: there is no {variable!r}; {name_choices(variable, KAPLAN_OF_ONE)}")
    if not value > 0:
        raise ConfigError(f"{variable}: got {value}; allowed is a number above 0")
    scale, exponent = KAPLAN_OF_ONE[variable]
    return (scale / value) ** exponent


def critical_batch(loss: float) -> float:
    """Return the batch size in tokens at which time and compute are balanced, for a loss in nats per token.

    Source: Kaplan et al. 2020, equation 1.4: B_crit = 2e8 * L ** (-1 / 0.21).
    """
    return CRITICAL_BATCH * loss ** (-1 / CRITICAL_EXPONENT)


@dataclass(frozen=True)
class Fit:
    """Fitted law.

    Attributes:
        law: with the smallest sum of Huber losses.
        residual: root mean square of the relative errors of the losses.
        samples: laws fitted to samples of the runs, drawn with replacement; empty without bootstrap.
    """

    law: Law
    residual: float
    samples: Sequence[Law]

    def interval(self, value: Callable[[Law], float], share: float = 0.95) -> tuple[float, float] | None:
        """Return the bootstrap interval of a value of the law; None without bootstrap."""
        if not self.samples:
            return None
        values = [value(law) for law in self.samples]
        low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
        return float(low), float(high)


def fit_law(
    kind: type[Law], points: Points, *, bootstrap: int = 100, seed: int = 0, advance: Callable[[int], None] = lambda fits: None
) -> Fit:
    """Fit a law to finished runs.

    Args:
        kind: form of the law.
        points: the runs.
        bootstrap: number of samples for the intervals; 0 for none.
        seed: of the samples.
        advance: receives 1 after each of the ``num_fits`` minimisations.

    Raises:
        DataError: there are too few runs, or all have one size or one number of tokens.
        ConfigError: SciPy is not installed.
    """
    varied = {"parameters": len(np.unique(points.parameters)), "tokens": len(np.unique(points.tokens))}
    if len(points) < FEWEST or min(varied.values()) < 2:
        raise DataError(
            f"runs: {len(points)} runs of {varied['parameters']} sizes and {varied['tokens']} numbers of tokens; allowed are {FEWEST} runs "
            "or more, of at least two sizes and two numbers of tokens: train further models"
        )
    grid = np.stack(np.meshgrid(*kind.axes, indexing="ij"), -1).reshape(-1, len(kind.axes)).astype(float)
    sums = np.array([_objective(guess, kind, points)[0] for guess in grid])
    starts = grid[np.argsort(sums, kind="stable")[:STARTS]]
    found = []
    for start in starts:
        found.append(_minimise(start, kind, points))
        advance(1)
    best = min(found, key=lambda each: each[0])[1]
    generator, samples = np.random.default_rng(seed), []
    for _ in range(bootstrap):
        some = points.take(generator.integers(len(points), size=len(points)))
        samples.append(kind(tuple(_minimise(best, kind, some)[1])))
        advance(1)
    errors = kind.log_loss(best, points)[0] - np.log(points.losses)
    return Fit(kind(tuple(best.tolist())), float(np.sqrt(np.mean(errors**2))), samples)


def num_fits(bootstrap: int) -> int:
    """Return the number of minimisations in ``fit_law``."""
    return STARTS + bootstrap


def _objective(vector: np.ndarray, kind: type[Law], points: Points) -> tuple[float, np.ndarray]:
    """Return the sum of Huber losses, in units of DELTA squared, and its gradient."""
    predicted, slopes = kind.log_loss(vector, points)
    error = (predicted - np.log(points.losses)) / DELTA
    small = np.abs(error) <= 1
    losses = np.where(small, 0.5 * error**2, np.abs(error) - 0.5)
    return float(losses.sum()), slopes @ np.where(small, error, np.sign(error)) / DELTA


def _minimise(start: np.ndarray, kind: type[Law], points: Points) -> tuple[float, np.ndarray]:
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ConfigError(f"fit-scaling: scipy is not installed ({error}); install it with: zoo install probe") from error
    bounds = [(LEAST_EXPONENT, None) if place in kind.exponents else (None, None) for place in range(len(start))]
    options = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 10_000, "maxfun": 100_000}
    found = minimize(_objective, start, args=(kind, points), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return float(found.fun), np.asarray(found.x)


def _log_sum(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithm of the sum of exponentials over the first axis, and the share of each term."""
    most = terms.max(0)
    powers = np.exp(terms - most)
    total = powers.sum(0)
    return most + np.log(total), powers / total

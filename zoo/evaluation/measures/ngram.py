"""n-gram language models with different smoothing, or none: a baseline without a neural network.

Sources: Kneser and Ney 1995; Chen and Goodman 1999, section 2.7 (interpolated form) and 2.4 (Witten and Bell 1991). Reference: nltk 3.10,
``nltk.lm``.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

from zoo.errors import ConfigError, DataError, name_choices

SMOOTHINGS = ("kneser_ney", "laplace", "witten_bell", "none")


class NGram:
    """Probabilities of the next symbol given the ``order - 1`` symbols before it.

    Args:
        order: length of the n-grams; 1 ignores the context.
        smoothing: "kneser_ney": counts less a discount, interpolated with the next shorter context, in which a symbol counts once for each
            symbol that was seen before it. "laplace": each symbol of the vocabulary is counted once more after every context.
            "witten_bell": counts interpolated with the next shorter context, whose weight is the number of symbols that follow the
            context, divided by that number plus all counts. "none": shares of the counts (maximum likelihood), 0 for what was never seen.
        discount: of Kneser-Ney, between 0 and 1; one for all orders.
        vocab_size: number of symbols that may occur. Kneser-Ney then gives a symbol that was never seen a share of the uniform
            distribution; with None its probability is 0 (as in nltk). Laplace needs it; the others do not use it.

    Raises:
        ConfigError: a value is out of range or unknown.
    """

    def __init__(self, *, order: int = 3, smoothing: str = "kneser_ney", discount: float = 0.75, vocab_size: int | None = None) -> None:
        if order < 1:
            raise ConfigError(f"order: got {order}; allowed is a whole number above 0")
        if smoothing not in SMOOTHINGS:
            raise ConfigError(f"smoothing: there is no {smoothing!r}; {name_choices(smoothing, SMOOTHINGS)}")
        if not 0 < discount < 1:
            raise ConfigError(f"discount: got {discount}; allowed is a number between 0 and 1")
        if smoothing == "laplace" and vocab_size is None:
            raise ConfigError("vocab_size: null, but Laplace's smoothing adds 1 for each symbol; give the number of symbols")
        self.order, self.smoothing, self.discount, self.vocab_size = order, smoothing, discount, vocab_size
        # By context, from the empty one to order - 1 symbols.
        self.counts: dict[tuple[Hashable, ...], Counter[Hashable]] = defaultdict(Counter)
        self.continuations: dict[tuple[Hashable, ...], Counter[Hashable]] = defaultdict(Counter)

    def fit(self, sequences: Iterable[Sequence[Hashable]]) -> "NGram":
        """Count the n-grams of sequences, which hold their start and end symbols already."""
        for sequence in sequences:
            for place, symbol in enumerate(sequence):
                for length in range(min(place, self.order - 1) + 1):
                    context = tuple(sequence[place - length : place])
                    if length and symbol not in self.counts[context]:
                        self.continuations[context[1:]][symbol] += 1  # one more symbol stands before this context and symbol
                    self.counts[context][symbol] += 1
        return self

    def probability(self, symbol: Hashable, context: Sequence[Hashable]) -> float:
        """Return the probability of a symbol after a context, of which the last ``order - 1`` symbols count."""
        length = min(len(context), self.order - 1)
        seen = tuple(context[len(context) - length :])
        if self.smoothing == "laplace":
            assert self.vocab_size is not None
            counts = self.counts.get(seen, Counter())
            return (counts[symbol] + 1) / (counts.total() + self.vocab_size)
        return {"kneser_ney": self._kneser_ney, "witten_bell": self._witten_bell, "none": self._share}[self.smoothing](symbol, seen)

    def _share(self, symbol: Hashable, context: tuple[Hashable, ...]) -> float:
        """Share of the counts after a context; 0 if the context was never seen."""
        counts = self.counts.get(context)
        return counts[symbol] / counts.total() if counts else 0.0

    def _witten_bell(self, symbol: Hashable, context: tuple[Hashable, ...]) -> float:
        """Counts of the context, interpolated with the next shorter one; a context that was never seen has no weight."""
        counts = self.counts.get(context)
        if not context:
            return self._share(symbol, context)
        below = self._witten_bell(symbol, context[1:])
        return (counts[symbol] + len(counts) * below) / (counts.total() + len(counts)) if counts else below

    def _kneser_ney(self, symbol: Hashable, context: tuple[Hashable, ...]) -> float:
        """Discounted counts of the longest context, and numbers of continuations of the shorter ones."""
        whole = len(context) == self.order - 1
        counts = self.counts.get(context) if whole else self.continuations.get(context)
        if not context:
            return self._of_symbol(symbol, counts or Counter())
        below = self._kneser_ney(symbol, context[1:])
        if not counts:
            return below
        total, kinds = counts.total(), len(self.counts[context])
        return max(counts[symbol] - self.discount, 0) / total + self.discount * kinds / total * below

    def _of_symbol(self, symbol: Hashable, counts: Counter[Hashable]) -> float:
        total = counts.total()
        if self.vocab_size is None:
            return counts[symbol] / total if total else 0.0
        if not total:
            return 1 / self.vocab_size
        left = self.discount * len(counts) / total  # the mass that the discount frees, spread evenly
        return max(counts[symbol] - self.discount, 0) / total + left / self.vocab_size

    def surprise(self, symbol: Hashable, context: Sequence[Hashable]) -> float:
        """Return the negative logarithm of the probability, in nats; infinite for a probability of 0."""
        found = self.probability(symbol, context)
        return -math.log(found) if found > 0 else math.inf

    def perplexity(self, ngrams: Iterable[tuple[Sequence[Hashable], Hashable]]) -> float:
        """Return the perplexity of symbols, each given its context.

        Raises:
            DataError: there are no symbols.
        """
        surprises = [self.surprise(symbol, context) for context, symbol in ngrams]
        if not surprises:
            raise DataError("ngram: there are no symbols to predict; give at least one")
        return math.exp(min(math.fsum(surprises) / len(surprises), 700.0))  # exp overflows above 709

"""Trial of a tiny copy of a causal language model of transformers: is it causal, and what does it make of caches and padding.

Transformers has models of many kinds under the name "causal language model". Some attend to later tokens, some keep a cache that does not
continue a text, some read token ids a second time. A wrong output would not be noticed, so each kind of config is tried before it is used.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, first_line
from zoo.layers import hosted_decoder as decoder
from zoo.layers.hosted_decoder import Habits
from zoo.layers.hosted_tiny import SMALLEST_VOCABULARY, shrink
from zoo.layers.hosted_transformers import import_transformers, quiet_and_offline

ROWS, LENGTH = 2, 11  # the cache is tried in pieces of 7, 1 and 3 tokens
PIECES = ((0, 7), (7, 8), (8, 11))
TOLERANCE = 1e-4  # of the largest logit; float32 rounding is below 1e-5, and every defect seen was above 1e-2
NOISE = 0.05  # added to the weights, so that gates and biases that start at 0 count
FAILURES = (AssertionError, AttributeError, ImportError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)


class TinyCopyError(Exception):
    """No tiny copy of this config can be built."""


def find_habits(config: Any, build: Callable[[Any], nn.Module]) -> Habits:
    """Return the habits of the models of a config, from a trial of a tiny copy.

    Args:
        config: transformers' parsed config.
        build: builds the model of a config, in float32 on the CPU.

    Raises:
        ConfigError: the model cannot serve as a causal language model; the message says why.
        TinyCopyError: transformers cannot build the tiny copy.
    """
    return _of_tiny(json.dumps(shrunk(config), sort_keys=True, default=str), build)


def shrunk(config: Any) -> dict[str, Any]:
    """Return the content of a parsed config with small sizes."""
    with quiet_and_offline():
        return shrink(config.to_dict(), import_transformers().PreTrainedConfig().to_dict())


@lru_cache(maxsize=64)
def _of_tiny(config: str, build: Callable[[Any], nn.Module]) -> Habits:
    with plain_cpu(), quiet_and_offline():
        try:
            model = tiny_model(json.loads(config), build)
        except (*FAILURES, ConfigError) as error:
            raise TinyCopyError(first_line(error)) from error
        return try_out(model)


def tiny_model(config: Mapping[str, Any], build: Callable[[Any], nn.Module]) -> nn.Module:
    """Build a model of a shrunk config, with noise on its weights."""
    from transformers import AutoConfig

    settings = dict(config)
    with quiet_and_offline():
        model = build(AutoConfig.for_model(settings.pop("model_type"), **settings)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * NOISE)
    return model


@contextmanager
def plain_cpu() -> Iterator[None]:
    """Compute in float32 on the CPU without gradients; the caller's random numbers, device and dtype are left as they are."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.inference_mode(False), torch.no_grad():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def try_out(model: nn.Module) -> Habits:
    """Compare runs of a model with each other, and return its habits.

    Raises:
        ConfigError: it cannot serve as a causal language model.
    """
    return _Trial(model).habits()


class _Trial:
    """One text of random tokens in two rows, and the logits that the model gives for it when called as its authors do."""

    def __init__(self, model: Any) -> None:
        self.model = model
        special = {id for key, id in model.config.to_dict().items() if key.endswith("_token_id") and isinstance(id, int)}
        rows = model.get_input_embeddings().weight.shape[0]  # a vocabulary that is smaller than that of a tiny copy is kept
        words = torch.tensor([id for id in range(min(5, rows - 2), min(rows, SMALLEST_VOCABULARY)) if id not in special])
        self.ids = words[torch.randint(len(words), (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))]
        self.truth: Tensor = _told("with token ids", lambda: model(input_ids=self.ids, use_cache=False, return_dict=True).logits)
        self.scale = max(1.0, float(self.truth.abs().max()))

    def habits(self) -> Habits:
        """Go through the rules in turn."""
        habits = self._positions()
        self._check_vectors(habits)
        self._check_causal(habits)
        habits = self._steps(habits)
        return Habits(habits.first_position, self._pads(habits), habits.steps)

    def run(self, habits: Habits, ids: Tensor, mask: Tensor | None = None, cache: Any = None) -> Tensor:
        """Return the logits as ``zoo.language.transformers`` computes them."""
        vectors = decoder.embed(self.model, ids)
        return decoder.logits(self.model, decoder.hidden_states(self.model, habits, vectors, mask, None, cache))

    def off(self, found: Tensor, expected: Tensor) -> float:
        """Return the largest difference, as a share of the largest logit."""
        difference = float((found - expected).abs().max()) / self.scale
        return difference if difference == difference else float("inf")

    def _positions(self) -> Habits:
        """Find the first position with which vectors give what token ids give."""
        padding = self.model.config.get_text_config(decoder=True).to_dict().get("pad_token_id")
        choices: list[int | None] = [0, None] if not isinstance(padding, int) else [0, padding + 1, None]
        if "position_ids" not in decoder.takes(self.model):
            choices = [None]
        differences = []
        for first in choices:
            habits = Habits(first)
            differences.append(self.off(_told("with vectors", lambda habits=habits: self.run(habits, self.ids)), self.truth))
            if differences[-1] < TOLERANCE:
                return habits
        raise ConfigError(
            f"vectors in the place of token ids change its logits by {min(differences):.2g} of the largest; "
            "it reads the ids in further places"
        )

    def _check_vectors(self, habits: Habits) -> None:
        """Refuse models that look up which words the vectors are, as Gemma 4 does with embeddings per layer."""
        vectors = decoder.embed(self.model, self.ids) * 0.9
        _told("with vectors that are no words, as those of images", lambda: decoder.hidden_states(self.model, habits, vectors))

    def _check_causal(self, habits: Habits) -> None:
        changed = self.ids.clone()
        changed[:, 6:] = changed[:, 6:].flip(0, 1)
        difference = self.off(self.run(habits, changed)[:, :6], self.truth[:, :6])
        if difference > TOLERANCE:
            raise ConfigError(
                f"its attention is not causal: other words later in a text change the logits by {difference:.2g} of the largest"
            )
        alone = self.off(self.run(habits, self.ids[:1]), self.truth[:1])
        if alone > TOLERANCE:
            raise ConfigError(f"a row alone has other logits than in a batch, by {alone:.2g} of the largest")

    def _steps(self, habits: Habits) -> Habits:
        """Find out if several tokens at once may follow a cache."""
        differences = []
        for steps in (False, True):
            habits = Habits(habits.first_position, steps=steps)
            differences.append(self.off(_told("with a cache", lambda habits=habits: self._cached(habits)), self.truth))
            if differences[-1] < TOLERANCE:
                return habits
        raise ConfigError(f"its cache does not continue a text: the logits change by {min(differences):.2g} of the largest")

    def _cached(self, habits: Habits) -> Tensor:
        """Run the text in pieces. After the first, another text runs with another cache, and the rows change places."""
        first, *rest = PIECES
        cache = decoder.empty_cache(self.model, ROWS)
        found = [self.run(habits, self.ids[:, slice(*first)], cache=cache)]
        self.run(habits, self.ids[:, 4:], cache=decoder.empty_cache(self.model, ROWS))
        swapped = torch.tensor([1, 0])
        cache.select(swapped)
        found += [self.run(habits, self.ids[swapped, a:b], cache=cache)[swapped] for a, b in rest]
        return torch.cat(found, dim=1)

    def _pads(self, habits: Habits) -> str:
        """Find the padding that changes nothing, without a cache and with one."""
        gaps = {"left": slice(0, 4), "right": slice(LENGTH - 4, LENGTH), "between": slice(3, 7)}
        if not self._bears(habits, gaps["left"]):
            return "nowhere"
        return "anywhere" if self._bears(habits, gaps["right"]) and self._bears(habits, gaps["between"]) else "left"

    def _bears(self, habits: Habits, gap: slice) -> bool:
        """Return True if four tokens of padding in the second row change nothing, without a cache and with one."""
        ids, mask = self.ids.clone(), torch.ones(ROWS, LENGTH, dtype=torch.bool)
        mask[1, gap] = False
        ids[1, ~mask[1]], ids[1, mask[1]] = ids[0, 0], self.ids[1, : LENGTH - 4]
        expected = torch.cat([self.truth[0], self.truth[1, : LENGTH - 4]])
        try:
            cache = decoder.empty_cache(self.model, ROWS)
            pieces = [self.run(habits, ids[:, a:b], mask[:, a:b], cache) for a, b in PIECES]
            return all(self.off(found[mask], expected) < TOLERANCE for found in (self.run(habits, ids, mask), torch.cat(pieces, dim=1)))
        except FAILURES:
            return False


def _told(how: str, run: Callable[[], Tensor]) -> Tensor:
    """Run a model, and turn any error into one of the config."""
    try:
        return run()
    except ConfigError:
        raise
    except FAILURES as error:
        raise ConfigError(f"transformers cannot run it {how}: {type(error).__name__}: {first_line(error)}") from error

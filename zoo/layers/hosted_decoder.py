"""Calls of transformers' causal language models: vectors to hidden states to logits, with caches and padding.

The models differ in the arguments that they take, in the number of the first position, and in what they make of padding. ``Habits`` holds
these facts of a model; ``zoo.layers.hosted_probe`` finds them out.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.layers.hosted_cache import HostedCache
from zoo.layers.hosted_transformers import import_transformers
from zoo.types import on_host


@dataclass(frozen=True)
class Habits:
    """Facts about a causal language model of transformers.

    Attributes:
        first_position: number of the first position, for example 0, or ``padding_idx`` + 1 (RoBERTa); None passes no positions.
        pads: padding that changes nothing: "anywhere", "left" (before the first real token), or "nowhere". Rows with other padding are
            run one at a time, without it.
        steps: True if several tokens after a cache must be run one at a time.
    """

    first_position: int | None = 0
    pads: str = "anywhere"
    steps: bool = False

    def bear(self, mask: Bool[Tensor, "batch filled"] | None) -> bool:
        """Return True if rows with this padding can be run together."""
        if mask is None or self.pads == "anywhere":
            return True
        mask = on_host(mask)
        if bool(mask.all()):
            return True
        return self.pads == "left" and bool((mask[:, 1:] >= mask[:, :-1]).all())


def takes(model: nn.Module) -> frozenset[str]:
    """Return the names of the arguments that the decoder of a model takes."""
    return frozenset(inspect.signature(runner(model).forward).parameters)


def inner(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and the module of the child that computes hidden states; ``logits`` replaces it by a stub."""
    base: Any = model.base_model
    library = import_transformers()
    for name, child in model.named_children():
        if child is base or (base is model and isinstance(child, library.PreTrainedModel)):
            return name, child
    raise TypeError(f"{type(model).__name__} has no inner model without its output layer")


def runner(model: nn.Module) -> nn.Module:
    """Return the module whose ``forward`` takes the arguments; a wrapper (BART's) hands them on to its decoder."""
    child = inner(model)[1]
    wrapped: Any = dict(child.named_children()).get("decoder")
    return child if wrapped is None or "inputs_embeds" in inspect.signature(child.forward).parameters else wrapped


def empty_cache(model: Any, batch_size: int) -> HostedCache:
    """Return an empty cache of the kind that transformers makes for the model's config."""
    config, library = model.config.get_text_config(decoder=True), import_transformers()
    return HostedCache(batch_size, model.device, lambda: library.DynamicCache(config=config))


def hidden_states(
    model: Any,
    habits: Habits,
    x: Float[Tensor, "batch length dim"],
    mask: Bool[Tensor, "batch length"] | None = None,
    positions: Int[Tensor, "batch length"] | None = None,
    cache: HostedCache | None = None,
) -> Float[Tensor, "batch length dim"]:
    """Return the hidden states after the last norm.

    Args:
        mask: True at real tokens; not with a meta tensor, whose values cannot be read.
        positions: counted from 0; None counts real tokens.
        cache: is extended by these tokens.
    """
    past = 0 if cache is None else cache.length
    if positions is None:
        positions = count_positions(x, mask, cache)
    if cache is not None:
        mask = cache.extend(x.shape[1], mask)  # [batch, past + length]
    if not habits.bear(mask) or (cache is not None and cache.is_split):
        real = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask[:, past:]
        return _alone(model, habits, x, real, positions, cache)
    held = None if cache is None else cache.held[0]
    if habits.steps and past and x.shape[1] > 1:
        rows = x.new_ones(len(x), past + x.shape[1], dtype=torch.bool) if mask is None else mask
        steps = [
            _call(model, habits, x[:, step : step + 1], rows[:, : past + step + 1], positions[:, step : step + 1], held)
            for step in range(x.shape[1])
        ]
        return torch.cat(steps, dim=1)
    return _call(model, habits, x, mask, positions, held)


def _alone(
    model: Any, habits: Habits, x: Tensor, real: Bool[Tensor, "batch length"], positions: Tensor, cache: HostedCache | None
) -> Float[Tensor, "batch length dim"]:
    """Run each row without its padding; zeros stand at the padding."""
    past = 0 if cache is None else cache.split().length - x.shape[1]
    rows = []
    for row, kept in enumerate(real):
        found = x.new_zeros(x.shape[1:])
        if bool(kept.any()):
            single = None if cache is None else cache.row(row, past)
            hidden = hidden_states(model, habits, x[row, kept][None], None, positions[row, kept][None], single)
            found = found.index_put((kept.nonzero().squeeze(1),), hidden[0])
        rows.append(found)
    return torch.stack(rows)


def _call(model: Any, habits: Habits, x: Tensor, mask: Tensor | None, positions: Tensor, held: Any) -> Tensor:
    """Call the decoder with the arguments that it takes."""
    first = habits.first_position
    arguments: dict[str, Any] = {"use_cache": held is not None, "past_key_values": held, "return_dict": True}
    arguments["attention_mask"] = None if mask is None else mask.long()
    if first is not None:
        arguments["position_ids"] = positions + first
    known = takes(model)
    return inner(model)[1](inputs_embeds=x, **{key: value for key, value in arguments.items() if key in known}).last_hidden_state


def count_positions(
    x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"] | None, cache: HostedCache | None
) -> Int[Tensor, "batch length"]:
    """Return the positions of new tokens, counted over the real ones of the cache and of the mask.

    Example: three tokens in the cache, of which one is padding, and the mask 0 1 1 give 2 2 3.
    """
    past = x.new_zeros(len(x), 1, dtype=torch.int64) if cache is None else cache.real.sum(1, keepdim=True)
    if mask is None:
        return past + torch.arange(x.shape[1], device=x.device)
    return (past + mask.cumsum(1) - 1).clamp(min=0)


def embed(model: Any, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
    """Return the embeddings of token ids; negative ids (placeholders of other modalities) give zeros."""
    vectors = model.get_input_embeddings()(token_ids.clamp(min=0))
    return vectors.masked_fill((token_ids < 0)[..., None], 0.0)


def logits(model: Any, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
    """Return the logits of the next token over the vocabulary.

    The model's own forward computes them, with its inner model replaced by a stub that returns ``hidden``. Calling ``lm_head`` would be
    wrong, because some models scale or cap their logits.
    """
    rows = hidden.reshape(1, -1, hidden.shape[-1])  # the forward expects [batch, length, dim]
    name, child = inner(model)
    model._modules[name] = _Given(rows, child)
    try:
        scores = model(inputs_embeds=rows, use_cache=False, return_dict=True).logits
    finally:
        model._modules[name] = child
    return scores.reshape(*hidden.shape[:-1], -1)


class _Given(nn.Module):
    """Stub that always returns a precomputed output; every other attribute is that of the module in whose place it is."""

    def __init__(self, hidden: Tensor, original: nn.Module) -> None:
        super().__init__()
        self.hidden = hidden
        self.__dict__["original"] = original  # not a child: its parameters belong to the model

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["original"].__getattribute__(name)

    @property
    def decoder(self) -> "_Given":
        """Return the stub itself; some models call ``model.decoder`` instead of ``model``."""
        return self

    def forward(self, *arguments: object, **keywords: object) -> "_Output":
        return _Output(self.hidden)


class _Output:
    """Stub of a model output: hidden states by name and as item 0; every other attribute is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

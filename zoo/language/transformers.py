"""Any causal language model of transformers.

Reference: transformers 5.17, which is itself what runs here: its module, under its own names of parameters. The row of such a model
(``transformers/DIRECTORY``) is the parsed ``config.json``.

Where we differ: nothing is computed differently. Positions are counted over real tokens, where the model takes positions. Packed lists
are padded again, because its attention knows no other form.
"""

import inspect
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.layers.hosted_transformers import import_transformers, parse_config, quiet_and_offline, read_into
from zoo.layers.meta import meta_device
from zoo.layers.packing import Packing
from zoo.registry import register

REFUSALS = (AssertionError, AttributeError, ImportError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)
LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx", "max_seq_len")
ENDLESS = 2**20  # context of models whose config names none, and whose positions need no table


@register("language")
class Transformers(nn.Module):
    """Token ids, or their vectors, to hidden states, from which ``logits`` makes scores of the next token.

    Args:
        config: what transformers writes into ``config.json``, with ``model_type``.

    Raises:
        ConfigError: transformers is not installed, or the config is of no causal language model with a cache of keys and values,
            asks for code of its own, or has a value that transformers refuses.
        DataError: (forward) a text longer than ``context_length``.
    """

    def __init__(self, *, config: dict[str, Any]) -> None:
        super().__init__()
        parsed = parse_config(config, {}, example="llama")
        _refuse_others(parsed)
        sizes = parsed.get_text_config()
        self.dim, self.vocab_size = int(sizes.hidden_size), int(sizes.vocab_size)
        self.context_length = next((int(n) for key in LENGTHS if isinstance(n := getattr(sizes, key, None), int)), ENDLESS)
        self.model: Any = _build(parsed)
        if any(getattr(module, "is_causal", True) is False for module in self.model.modules()):
            raise ConfigError("config.is_decoder: false, so that tokens see what comes after them; allowed is true")
        self._takes = set(inspect.signature(self.model.base_model.forward).parameters)
        missing = {"inputs_embeds", "past_key_values", "attention_mask"} - self._takes
        if missing:
            raise ConfigError(
                f"config.model_type: {parsed.model_type!r} cannot be used here: its model takes no {', '.join(sorted(missing))}"
            )

    def forward(
        self,
        x: Int[Tensor, "*tokens"] | Float[Tensor, "*tokens dim"],
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        cache: "ForeignCache | None" = None,
        layout: Packing | None = None,
    ) -> Float[Tensor, "*tokens dim"]:
        """Hidden states after the last norm; arguments as those of ``causal_lm``."""
        x = x if x.is_floating_point() else self.embed(x)
        if layout is None:
            return self._batch(x, mask, positions, cache)
        real = torch.zeros(layout.shape.numel(), dtype=torch.bool, device=x.device)
        real[layout.index] = True
        return layout.pack(self._batch(layout.unpack(x), real.unflatten(0, layout.shape), None, None))

    def _batch(self, x: Tensor, mask: Tensor | None, positions: Tensor | None, cache: "ForeignCache | None") -> Tensor:
        past, mask = 0 if cache is None else cache.length, None if x.is_meta else mask  # theirs looks into masks
        if cache is not None:
            mask = cache.extend(x.shape[1], mask)  # of all keys
        if positions is None:
            positions = _counted(x, mask, past)
        if not positions.is_meta and positions.numel() and int(positions.max()) >= self.context_length:
            raise DataError(f"texts have {int(positions.max()) + 1} tokens; context_length allows {self.context_length}: shorten them")
        words = {"use_cache": cache is not None, "past_key_values": None if cache is None else cache.held, "position_ids": positions}
        words |= {"attention_mask": None if mask is None else mask.long(), "return_dict": True}
        return self.model.base_model(
            inputs_embeds=x, **{key: value for key, value in words.items() if key in self._takes}
        ).last_hidden_state

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Vectors of token ids; negative ones, where something else goes, are zeros."""
        vectors = self.model.get_input_embeddings()(token_ids.clamp(min=0))
        return vectors.masked_fill((token_ids < 0)[..., None], 0.0)

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Scores of each token of the vocabulary as the next one.

        The model's own forward makes them, told that these are what its inner model gave: some scale or cap them.
        """
        rows = hidden.reshape(1, -1, self.dim)
        inner = self.model.base_model
        name = next(name for name, child in self.model.named_children() if child is inner)
        self.model._modules[name] = _Given(rows)
        try:
            scores = self.model(inputs_embeds=rows, use_cache=False, return_dict=True).logits
        finally:
            self.model._modules[name] = inner
        return scores.reshape(*hidden.shape[:-1], -1)

    def new_cache(self, batch_size: int, length: int) -> "ForeignCache":
        """An empty cache; it grows as it is filled."""
        return ForeignCache(batch_size, self.model.device)

    def read_pretrained(self, directory: str | Path) -> dict[str, Tensor]:
        """The weights of a directory that transformers saved, under the names of this model; nothing is loaded yet.

        Only safetensors are read, and no code is run.

        Raises:
            WeightsError: unreadable, a weight that is missing or of another shape, or one for which there is no place.
        """
        return {f"model.{key}": tensor for key, tensor in read_into(self.model, directory).state_dict().items()}


class _Given(nn.Module):
    """In place of an inner model: its output, whatever it is asked."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    @property
    def decoder(self) -> "_Given":
        """Some ask the decoder within."""
        return self

    def forward(self, *arguments: object, **keywords: object) -> "_Output":
        return _Output(self.hidden)


class _Output:
    """Hidden states by name and by number; everything else that an output may hold is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class ForeignCache:
    """A cache of transformers as ``zoo.layers.cache.Cache`` has it: how much is filled, which keys are real, rows and lengths to keep."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self.held = import_transformers().DynamicCache()
        self.real = torch.ones(batch_size, 0, dtype=torch.bool, device=device)
        self.padded = False

    @property
    def length(self) -> int:
        """How many tokens of each row it holds."""
        return self.real.shape[1]

    @property
    def batch_size(self) -> int:
        """How many rows."""
        return self.real.shape[0]

    @property
    def mask(self) -> Bool[Tensor, "batch filled"]:
        """True at real tokens."""
        return self.real

    def extend(self, count: int, mask: Bool[Tensor, "batch count"] | None) -> Bool[Tensor, "batch filled"] | None:
        """Note the tokens that come; the mask of all keys, None where all are real."""
        new = self.real.new_ones(self.batch_size, count) if mask is None else mask
        self.padded = self.padded or not bool(new.all())
        self.real = torch.cat([self.real, new], dim=1)
        return self.real if self.padded else None

    def select(self, rows: Int[Tensor, " rows"]) -> "ForeignCache":
        """Keep these rows in this order, in place."""
        if self.length:
            self.held.batch_select_indices(rows)
        self.real = self.real.index_select(0, rows)
        return self

    def crop(self, length: int) -> "ForeignCache":
        """Keep the first ``length`` tokens of each row, in place.

        Raises:
            DataError: there are not so many.
        """
        if not 0 <= length <= self.length:
            raise DataError(f"the cache holds {self.length} tokens a row; it cannot keep the first {length}")
        if length < self.length:
            self.held.crop(length - self.length)  # so many less
        self.real = self.real[:, :length]
        self.padded = not bool(self.real.all())
        return self

    def reserve(self, length: int) -> "ForeignCache":
        """There is always room."""
        return self


def _counted(x: Tensor, mask: Tensor | None, past: int) -> Int[Tensor, "batch length"]:
    if mask is None:
        return torch.arange(past, past + x.shape[1], device=x.device).expand(x.shape[0], -1)
    return (mask.cumsum(1) - 1).clamp(min=0)[:, -x.shape[1] :]


def _refuse_others(parsed: Any) -> None:
    """Raise ConfigError for what transformers has no causal language model for."""
    library = import_transformers()
    if type(parsed) not in library.MODEL_FOR_CAUSAL_LM_MAPPING or getattr(parsed, "is_encoder_decoder", False):
        raise ConfigError(f"config.model_type: {parsed.model_type!r} is no causal language model; choose one such as llama, gpt2, qwen2")


def _build(parsed: Any) -> nn.Module:
    library = import_transformers()

    def build() -> nn.Module:
        with quiet_and_offline():
            return library.AutoModelForCausalLM.from_config(parsed, dtype=torch.get_default_dtype())

    try:
        with meta_device():
            build()  # what it refuses is told before any memory is taken
        return build()
    except REFUSALS as error:  # what another library raises for what it does not take is its own affair
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(f"config (model_type {parsed.model_type}): cannot be built: {reason}") from error

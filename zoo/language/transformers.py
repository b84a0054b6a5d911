"""Adapter for any causal language model of the transformers library.

Reference: transformers 5.17. The library's own module runs here, under its own parameter names. The config of such a model
(``transformers/DIRECTORY``) is the parsed ``config.json``.

Where we differ: nothing is computed differently. Positions count real tokens if the model accepts positions. Packed lists are unpacked
into a padded batch, because the library's models take padded batches.
"""

import inspect
from collections.abc import Mapping, Sequence
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
from zoo.types import LanguageModel

REFUSALS = (AssertionError, AttributeError, ImportError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)
# Config keys under which different models store their maximum length.
LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx", "max_seq_len")
ENDLESS = 2**20  # context length of models whose config gives no maximum, because their positions need no table


@register("language")
class Transformers(LanguageModel):
    """Causal language model of transformers: maps token ids or embedding vectors to hidden states; ``logits`` scores the next token.

    Args:
        config: content of the model's ``config.json``, including ``model_type``.

    Raises:
        ConfigError: transformers is not installed, or the config does not describe a causal language model with a key-value cache,
            requires custom code (``trust_remote_code``), or has a value that transformers rejects.
        DataError: (forward) a text is longer than ``context_length``.
    """

    def __init__(self, *, config: dict[str, Any]) -> None:
        super().__init__()
        parsed = parse_config(config, {}, example="llama")
        _refuse_others(parsed)
        sizes = parsed.get_text_config()  # multimodal configs nest the sizes of their language model
        self.dim, self.vocab_size = int(sizes.hidden_size), int(sizes.vocab_size)
        self.context_length = _first(sizes, LENGTHS, ENDLESS)
        self.head_dim = _first(sizes, ("head_dim",), self.dim // _first(sizes, ("num_attention_heads",), 1))
        self.model: Any = _build(parsed)
        if any(getattr(module, "is_causal", True) is False for module in self.model.modules()):
            raise ConfigError("config.is_decoder: false, so that attention is not causal; allowed is true")
        # Forward arguments differ between models; some accept no position_ids (bloom).
        self._takes = set(inspect.signature(self.model.base_model.forward).parameters)
        missing = {"inputs_embeds", "past_key_values", "attention_mask"} - self._takes
        if missing:
            raise ConfigError(
                f"config.model_type: {parsed.model_type!r} is not supported: the forward of its model does not accept "
                f"{', '.join(sorted(missing))}; choose another causal language model"
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
        """Return the hidden states after the last norm; the arguments are those of ``DecoderOnly.forward``."""
        x = x if x.is_floating_point() else self.embed(x)
        if layout is None:
            return self._batch(x, mask, positions, cache)
        real = torch.zeros(layout.shape.numel(), dtype=torch.bool, device=x.device)
        real[layout.index] = True
        return layout.pack(self._batch(layout.unpack(x), real.unflatten(0, layout.shape), None, None))

    def _batch(self, x: Tensor, mask: Tensor | None, positions: Tensor | None, cache: "ForeignCache | None") -> Tensor:
        # transformers reads the values of masks, which meta tensors do not have.
        past, mask = 0 if cache is None else cache.length, None if x.is_meta else mask
        if cache is not None:
            mask = cache.extend(x.shape[1], mask)  # [batch, past + length]
        if positions is None:
            positions = _counted(x, mask, past)
        if not positions.is_meta and positions.numel() and int(positions.max()) >= self.context_length:
            raise DataError(f"a text has {int(positions.max()) + 1} tokens; context_length allows {self.context_length}: shorten it")
        arguments = {"use_cache": cache is not None, "past_key_values": None if cache is None else cache.held, "position_ids": positions}
        arguments |= {"attention_mask": None if mask is None else mask.long(), "return_dict": True}
        return self.model.base_model(
            inputs_embeds=x, **{key: value for key, value in arguments.items() if key in self._takes}
        ).last_hidden_state

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Return the embeddings of token ids; negative ids (placeholders of other modalities) give zeros."""
        vectors = self.model.get_input_embeddings()(token_ids.clamp(min=0))
        return vectors.masked_fill((token_ids < 0)[..., None], 0.0)

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Return the logits of the next token over the vocabulary.

        The model's own forward computes them, with its inner model replaced by a stub that returns ``hidden``. Calling ``lm_head``
        would be wrong, because some models scale or cap their logits.
        """
        rows = hidden.reshape(1, -1, self.dim)  # the forward expects [batch, length, dim]
        inner = self.model.base_model
        name = next(name for name, child in self.model.named_children() if child is inner)
        self.model._modules[name] = _Given(rows)
        try:
            scores = self.model(inputs_embeds=rows, use_cache=False, return_dict=True).logits
        finally:
            self.model._modules[name] = inner
        return scores.reshape(*hidden.shape[:-1], -1)

    def new_cache(self, batch_size: int, length: int) -> "ForeignCache":
        """Return an empty key-value cache; ``length`` is ignored, because the cache grows as it is filled."""
        return ForeignCache(batch_size, self.model.device)

    def read_native(self, source: Any) -> dict[str, Tensor] | None:
        """Return the weights of a directory that transformers saved; None for any other source."""
        if source.library != "transformers":
            return None
        return self.read_pretrained(source.directory, None if source.adapter is None else source.tensors)

    def read_pretrained(self, directory: str | Path, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Read the weights of a directory saved by transformers, under this model's names; they are not loaded into the model.

        Only safetensors files are read, and no code is run.

        Raises:
            WeightsError: a file is unreadable, or a weight is missing, unexpected or of another shape.
        """
        return {f"model.{key}": tensor for key, tensor in read_into(self.model, directory, tensors).state_dict().items()}


class _Given(nn.Module):
    """Stub that always returns a precomputed output."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

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


class ForeignCache:
    """Adapter of transformers' ``DynamicCache`` with the interface of ``zoo.layers.cache.Cache``."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self.held = import_transformers().DynamicCache()
        self.real = torch.ones(batch_size, 0, dtype=torch.bool, device=device)
        self.padded = False

    @property
    def length(self) -> int:
        """Number of cached tokens per row, including padding."""
        return self.real.shape[1]

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.real.shape[0]

    @property
    def mask(self) -> Bool[Tensor, "batch filled"]:
        """Mask of the cached tokens, True at real ones."""
        return self.real

    def extend(self, count: int, mask: Bool[Tensor, "batch count"] | None) -> Bool[Tensor, "batch filled"] | None:
        """Record ``count`` new tokens per row and return the mask of all keys, or None if all of them are real."""
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
            DataError: the cache holds fewer tokens.
        """
        if not 0 <= length <= self.length:
            raise DataError(f"the cache holds {self.length} tokens per row; it cannot keep the first {length}")
        if length < self.length:
            self.held.crop(length - self.length)  # a negative number is the number of tokens to remove
        self.real = self.real[:, :length]
        self.padded = not bool(self.real.all())
        return self

    def reserve(self, length: int) -> "ForeignCache":
        """Do nothing: the cache grows as it is filled."""
        return self


def _first(sizes: Any, keys: Sequence[str], default: int) -> int:
    """Return the first of the keys that a config has as a whole number."""
    return next((int(n) for key in keys if isinstance(n := getattr(sizes, key, None), int)), default)


def _counted(x: Tensor, mask: Tensor | None, past: int) -> Int[Tensor, "batch length"]:
    if mask is None:
        return torch.arange(past, past + x.shape[1], device=x.device).expand(x.shape[0], -1)
    return (mask.cumsum(1) - 1).clamp(min=0)[:, -x.shape[1] :]


def _refuse_others(parsed: Any) -> None:
    """Raise ConfigError unless transformers has a causal language model for the config."""
    library = import_transformers()
    if type(parsed) not in library.MODEL_FOR_CAUSAL_LM_MAPPING or getattr(parsed, "is_encoder_decoder", False):
        raise ConfigError(f"config.model_type: {parsed.model_type!r} is not a causal language model; choose one such as llama, gpt2, qwen2")


def _build(parsed: Any) -> nn.Module:
    library = import_transformers()

    def build() -> nn.Module:
        with quiet_and_offline():
            return library.AutoModelForCausalLM.from_config(parsed, dtype=torch.get_default_dtype())

    try:
        with meta_device():
            build()  # errors show up here, before any memory is allocated
        return build()
    except REFUSALS as error:  # transformers defines no error class for a bad config
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(f"config (model_type {parsed.model_type}): transformers cannot build the model: {reason}") from error

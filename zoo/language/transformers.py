"""Adapter for any causal language model of the transformers library.

Reference: transformers 5.17. The library's own module runs here, under its own parameter names. The config of such a model
(``transformers/DIRECTORY``) is the parsed ``config.json``. ``assets/guide/transformers.md`` lists the model types.

Where we differ: nothing is computed differently. Transformers makes the cache for the config. A trial of a tiny copy of the config
(``zoo.layers.hosted_probe``) finds the number of the first position and the padding that the model ignores; rows with other padding run one
at a time. Packed lists are unpacked into a padded batch, because the library's models take padded batches.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, first_line
from zoo.layers import hosted_decoder, hosted_probe
from zoo.layers.hosted_cache import HostedCache
from zoo.layers.hosted_decoder import Habits
from zoo.layers.hosted_transformers import first_number, import_transformers, parse_config, quiet_and_offline, read_into
from zoo.layers.meta import meta_device
from zoo.layers.packing import Packing
from zoo.registry import register
from zoo.types import LanguageModel

# Config keys under which different models store their maximum length.
LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx", "max_seq_len")
ENDLESS = 2**20  # context length of models whose config gives no maximum, because their positions need no table


@register("language")
class Transformers(LanguageModel):
    """Causal language model of transformers: maps token ids or embedding vectors to hidden states; ``logits`` scores the next token.

    Args:
        config: content of the model's ``config.json``, including ``model_type``.

    Raises:
        ConfigError: transformers is not installed, or the config does not describe a causal language model with a cache that continues
            a text, requires custom code (``trust_remote_code``), or has a value that transformers rejects.
        DataError: (forward) a text is longer than ``context_length``.
    """

    def __init__(self, *, config: dict[str, Any]) -> None:
        super().__init__()
        parsed = parse_config(config, {}, example="llama")
        _refuse_others(parsed)
        with meta_device():
            shapes = _build(parsed)  # errors show up here, before any memory is allocated
        sizes = parsed.get_text_config(decoder=True)  # multimodal configs nest the sizes of their language model
        self.dim, self.vocab_size = (first_number(sizes, (key,)) for key in ("hidden_size", "vocab_size"))
        _refuse_shapes(shapes, parsed, self.dim)
        habits = _habits(parsed)
        self.model: Any = _build(parsed)
        self._habits = _habits_of(self.model) if habits is None else habits
        # A table of positions whose first rows are for padding (RoBERTa) holds fewer tokens than rows.
        self.context_length = first_number(sizes, LENGTHS, ENDLESS) - (self._habits.first_position or 0)
        self.head_dim = first_number(sizes, ("head_dim",), self.dim // first_number(sizes, ("num_attention_heads",), 1))

    def forward(
        self,
        x: Int[Tensor, "*tokens"] | Float[Tensor, "*tokens dim"],
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        cache: HostedCache | None = None,
        layout: Packing | None = None,
    ) -> Float[Tensor, "*tokens dim"]:
        """Return the hidden states after the last norm; the arguments are those of ``DecoderOnly.forward``."""
        x = x if x.is_floating_point() else self.embed(x)
        if layout is None:
            return self._batch(x, mask, positions, cache)
        real = torch.zeros(layout.shape.numel(), dtype=torch.bool, device=x.device)
        real[layout.index] = True
        return layout.pack(self._batch(layout.unpack(x), real.unflatten(0, layout.shape), None, None))

    def _batch(self, x: Tensor, mask: Tensor | None, positions: Tensor | None, cache: HostedCache | None) -> Tensor:
        mask = None if x.is_meta else mask  # transformers reads the values of masks, which meta tensors do not have
        if positions is None:
            positions = hosted_decoder.count_positions(x, mask, cache)
        if not positions.is_meta and positions.numel() and int(positions.max()) >= self.context_length:
            raise DataError(f"a text has {int(positions.max()) + 1} tokens; context_length allows {self.context_length}: shorten it")
        return hosted_decoder.hidden_states(self.model, self._habits, x, mask, positions, cache)

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Return the embeddings of token ids; negative ids (placeholders of other modalities) give zeros."""
        return hosted_decoder.embed(self.model, token_ids)

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Return the logits of the next token over the vocabulary, as the model's own forward computes them."""
        return hosted_decoder.logits(self.model, hidden)

    def new_cache(self, batch_size: int, length: int) -> HostedCache:
        """Return an empty cache of the kind that the model needs; ``length`` is ignored, because the cache grows as it is filled."""
        return hosted_decoder.empty_cache(self.model, batch_size)

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


def _refuse_others(parsed: Any) -> None:
    """Raise ConfigError unless transformers has a causal language model for the config."""
    library = import_transformers()
    if type(parsed) not in library.MODEL_FOR_CAUSAL_LM_MAPPING or getattr(parsed, "is_encoder_decoder", False):
        raise ConfigError(f"config.model_type: {parsed.model_type!r} is not a causal language model; choose one such as llama, gpt2, qwen2")


def _refuse_shapes(model: nn.Module, parsed: Any, dim: int) -> None:
    """Raise ConfigError if the model takes other arguments than vectors, a cache and a mask, or its vectors have another width."""
    missing = {"inputs_embeds", "past_key_values", "attention_mask"} - hosted_decoder.takes(model)
    if missing:
        raise ConfigError(
            f"config.model_type: {parsed.model_type!r} cannot be used: the forward of its model does not accept "
            f"{', '.join(sorted(missing))}; choose another causal language model"
        )
    width = hosted_decoder.embed(model, torch.zeros(1, dtype=torch.int64, device="meta")).shape[-1]
    if width != dim:
        raise ConfigError(
            f"config (model_type {parsed.model_type}): its word vectors are {width} wide and its hidden states {dim}; "
            "a language model here has one width"
        )


def _habits(parsed: Any) -> Habits | None:
    """Return the habits of the models of a config; None if transformers cannot build a tiny copy of it."""
    try:
        return hosted_probe.find_habits(parsed, _build)
    except hosted_probe.TinyCopyError:
        return None
    except ConfigError as error:
        raise ConfigError(f"config.model_type: {parsed.model_type!r} cannot be used: {error}{_remedy(parsed)}") from error


def _remedy(parsed: Any) -> str:
    bidirectional = getattr(parsed, "is_decoder", True) is False
    return "; if the weights are of a decoder, set config.is_decoder to true" if bidirectional else "; choose another causal language model"


def _habits_of(model: nn.Module) -> Habits:
    """Try out a model itself, because there is no tiny copy; without values (meta device) the usual habits are returned."""
    if next(model.parameters()).is_meta:
        return Habits(0 if "position_ids" in hosted_decoder.takes(model) else None)
    with hosted_probe.plain_cpu():
        return hosted_probe.try_out(model.eval())


def _build(parsed: Any) -> nn.Module:
    library = import_transformers()
    try:
        with quiet_and_offline():
            return library.AutoModelForCausalLM.from_config(parsed, dtype=torch.get_default_dtype())
    except hosted_probe.FAILURES as error:  # transformers defines no error class for a bad config
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"config (model_type {parsed.model_type}): transformers cannot build the model: {reason}") from error

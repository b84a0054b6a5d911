"""Wrapper for any text encoder of transformers.

Reference: transformers 5.17. The library's own module runs here, with its parameter names. The registry entry
(``transformers/DIRECTORY``) is the parsed ``config.json``. ``assets/guide/transformers.md`` lists the model types.

Where we differ: nothing is computed differently. The mask, not the padding's token id, tells what is padding. Rows of different lengths run
apart if the library's model lets padding change its outputs (``zoo.layers.hosted_sequence``).
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.hosted_sequence import (
    facts_of,
    find_facts,
    freeze_unused,
    is_padded_at_the_end,
    one_length_at_a_time,
    shapes_alone,
)
from zoo.layers.hosted_transformers import first_number, import_transformers, parse_config, quiet_and_offline, read_into
from zoo.layers.pool import masked_max, masked_mean, take_tokens
from zoo.layers.recorded import is_recorded
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real, on_host

POOLS = ("pooler", "cls", "mean", "max", "last", "none")
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")  # config keys of the longest text
USUAL_LENGTH = 512  # tokens, for models whose config has no limit (T5, XLNet)
TRIAL, KEPT = 11, 7  # tokens of the two texts of a trial, and of the second where it is padded


@register("encoder")
class TransformersText(Encoder):
    """Text encoder that gives the last hidden state of a transformers model as tokens, and one pooled vector.

    Args:
        config: the content of transformers' ``config.json``, including ``model_type``.
        pool: "pooler" is the model's own pooled output, "cls" the first token, "last" the last real one, "mean" and "max" are taken over
            real tokens, "none" gives no pooled vector. None is "pooler" if the model has one, else "mean".
        pooler: False builds the model without a separate pooling layer; checkpoints of language-model heads have none.
        context_length: longest text in tokens; None is the config's limit, or 512 if it has none.
        preprocessing: keywords of the text processor that the weights were trained with.

    Raises:
        ConfigError: transformers is not installed; or the config does not describe a text encoder, requires custom code, or has a value
            that transformers refuses.
        DataError: (forward) a text is longer than ``context_length``.
    """

    modality = "text"
    silent_keywords = ("pool",)
    context_length: int

    def __init__(
        self,
        *,
        config: dict[str, Any],
        pool: str | None = None,
        pooler: bool = True,
        context_length: int | None = None,
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        parsed = parse_config(config, {}, example="bert")
        architecture = _architecture(parsed)
        self.dim, self.vocab_size = (first_number(parsed, (key,)) for key in ("hidden_size", "vocab_size"))
        leaves_out = not pooler and "add_pooling_layer" in inspect.signature(architecture.__init__).parameters
        self._build_keywords = {"add_pooling_layer": False} if leaves_out else {}
        self.preprocessing = dict(preprocessing or {})

        def build(config: Any) -> Any:
            with quiet_and_offline():
                return architecture._from_config(config, dtype=torch.get_default_dtype(), **self._build_keywords)

        facts = find_facts(parsed, build, _encode, _texts)
        self.model = build(parsed)
        if facts is None:
            facts = facts_of(self.model, _encode, _texts)
        self.pool = _checked_pool(pool, facts.pools)
        freeze_unused(self.model, facts.unused if self.pool == "pooler" else facts.unused | _poolers(self.model))
        self.gives_pooled, self._pads = self.pool != "none", facts.pads
        self.context_length = context_length or _longest(parsed, self.model)

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode token ids to tokens [batch, length, dim] and pooled vectors [batch, dim].

        Raises:
            DataError: a text is longer than ``context_length``.
        """
        if token_ids.shape[1] > self.context_length:
            raise DataError(f"a text has {token_ids.shape[1]} tokens; context_length allows {self.context_length}: shorten it")
        if token_ids.is_meta:
            encoded = shapes_alone(self.model, token_ids.shape[1], len(token_ids), self.dim, mask)
        elif mask is None or (not is_recorded() and bool(on_host(mask).all())):
            encoded = _encode(self.model, token_ids, None)
        elif self._pads and (is_recorded() or is_padded_at_the_end(mask)):  # no value of a recorded mask may be read
            encoded = _encode(self.model, token_ids, mask)
        else:
            encoded = one_length_at_a_time(token_ids, mask, lambda rows: _encode(self.model, rows, None))
        encoded.pooled = self._pooled(encoded)
        return encoded

    def _pooled(self, encoded: Encoded) -> Float[Tensor, "batch dim"] | None:
        tokens, mask = encoded.tokens, encoded.mask
        if self.pool == "cls":
            return tokens[:, 0]
        if self.pool == "last":
            return take_tokens(tokens, mask.sum(1) - 1)
        if self.pool in ("mean", "max"):
            return (masked_mean if self.pool == "mean" else masked_max)(tokens, mask)
        return encoded.pooled if self.pool == "pooler" else None

    def read_native(self, source: Any) -> dict[str, Tensor] | None:
        """Return the weights of a directory that transformers saved; None for any other source."""
        if source.library != "transformers":
            return None
        return self.read_pretrained(source.directory, None if source.adapter is None else source.tensors)

    def read_pretrained(self, directory: str | Path, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the weights of a directory saved by transformers under this encoder's names, without loading them.

        Raises:
            WeightsError: the files are unreadable, or a weight is missing, unexpected or of the wrong shape.
        """
        model = read_into(self.model, directory, tensors, **self._build_keywords)
        return {f"model.{key}": tensor for key, tensor in model.state_dict().items()}


def _encode(model: Any, token_ids: Tensor, mask: Tensor | None) -> Encoded:
    """Return the last hidden state, the model's own pooled vector if it has one of the same width, and the mask."""
    known = inspect.signature(model.forward).parameters
    real = all_real(token_ids.shape, token_ids.device) if mask is None else mask
    given = {"attention_mask": real.long(), "use_cache": False, "return_dict": True}
    output = model(input_ids=token_ids, **{key: value for key, value in given.items() if key in known})
    tokens, pooled = output.get("last_hidden_state"), output.get("pooler_output")
    if tokens is None or tokens.shape[:2] != token_ids.shape:
        raise ConfigError(f"{type(model).__name__} gives no hidden state for each token id; it is no text encoder")
    return Encoded(tokens, pooled if pooled is not None and pooled.shape == tokens[:, 0].shape else None, real)


def _texts(model: Any) -> tuple[Tensor, int]:
    """Return two texts of random words without special tokens, for a trial."""
    special = {id for key, id in model.config.to_dict().items() if key.endswith("_token_id") and isinstance(id, int)}
    words = torch.tensor([id for id in range(5, min(90, model.config.vocab_size)) if id not in special])
    return words[torch.randint(len(words), (2, TRIAL), generator=torch.Generator().manual_seed(1))], KEPT


def _architecture(parsed: Any) -> Any:
    """Return transformers' class of a text encoder; raise ConfigError if the config describes something else."""
    library = import_transformers()
    for table in (library.MODEL_FOR_TEXT_ENCODING_MAPPING, library.MODEL_MAPPING):
        found = table[type(parsed)] if type(parsed) in table else None
        found = found[0] if isinstance(found, tuple) else found  # Funnel has one model with and one without a decoder
        if isinstance(found, type) and found.main_input_name == "input_ids":
            if table is library.MODEL_MAPPING and parsed.is_encoder_decoder:
                raise ConfigError(f"config.model_type: {parsed.model_type!r} is not a text encoder: its output comes from a decoder")
            return found
    raise ConfigError(f"config.model_type: {parsed.model_type!r} is not a text encoder; choose one such as bert, electra, xlnet, t5")


def _checked_pool(pool: str | None, pools: bool) -> str:
    if pool is None:
        return "pooler" if pools else "mean"
    if pool not in POOLS:
        raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
    if pool == "pooler" and not pools:
        raise ConfigError("pool: 'pooler', but this model gives no pooled vector; allowed are cls, mean, max, last and none")
    return pool


def _poolers(model: nn.Module) -> frozenset[str]:
    return frozenset(key for key, _ in model.named_parameters() if key.split(".")[0] == "pooler")


def _longest(parsed: Any, model: nn.Module) -> int:
    """Return the number of tokens that the table of positions holds; rows up to its padding index are not for tokens (RoBERTa: 514)."""
    longest = first_number(parsed, LENGTHS, USUAL_LENGTH)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and (before := vars(module).get("padding_idx")) is not None:
            return longest - before - 1
    return longest

"""Generation by an encoder-decoder model: the decoder, bound to the memory of its sources, is a causal language model.

Papers: Vaswani et al. 2017 (arXiv 1706.03762), section 6.1 (beam 4, length penalty 0.6, at most input length + 50 tokens); Wu et al. 2016
(arXiv 1609.08144), section 7. The answers equal those of transformers' ``generate`` for the same settings.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.language.decoding.generate import Generated, generate
from zoo.language.decoding.sampling import Sampling, fresh_seed
from zoo.layers.memory import Memory, MemoryCache
from zoo.layers.seq2seq_decoder import Seq2SeqDecoder
from zoo.processors.chat.messages import Conversation
from zoo.types import Encoded, LanguageModel, SystemLike

MORE_THAN_SOURCE = 50  # tokens that a translation may have more than its source (Vaswani et al. 2017, section 6.1)
SETTINGS = tuple(field.name for field in fields(Sampling) if field.name not in ("eos_token_ids", "padding_side"))


class BoundDecoder(LanguageModel):
    """A decoder with the memory of its sources: the causal language model that ``generate`` takes, with one row for each source."""

    def __init__(self, decoder: Seq2SeqDecoder, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self._decoder = (decoder,)  # in a tuple: its owner keeps its mode and its weights
        self.dim, self.vocab_size, self.context_length = decoder.dim, decoder.vocab_size, decoder.context_length
        self.head_dim = decoder.head_dim

    @property
    def decoder(self) -> Seq2SeqDecoder:
        """The decoder."""
        return self._decoder[0]

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: Any = None,
        layout: Any = None,
    ) -> Tensor:
        """Return the hidden states; the rows of ``cache`` may be a selection of the sources' rows."""
        assert layout is None, "decoders with cross-attention have no packed lists"
        memory = cache.memory if cache is not None else self.memory
        return self.decoder.states(x, memory, mask=mask, positions=positions, cache=cache)

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Return the scaled word embeddings."""
        return self.decoder.embed(token_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of the next token."""
        return self.decoder.logits(hidden)

    def new_cache(self, batch_size: int, length: int) -> MemoryCache:
        """Return an empty cache with the memory of all sources."""
        return self.decoder.new_cache(self.memory, batch_size, length)


@torch.inference_mode()
def generate_answers(
    decoder: Seq2SeqDecoder,
    encoded: Encoded,
    start_ids: Sequence[int],
    sampling: Sampling,
    *,
    most_tokens: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
) -> list[Generated]:
    """Write an answer for each encoded source.

    Args:
        start_ids: token ids with which the decoder begins; they are not part of the answers.
        most_tokens: maximum length of each answer; None: ``sampling.max_new_tokens``.
        rows: row numbers that seed the sampling; by default 0, 1, 2, ...
    """
    language = BoundDecoder(decoder, decoder.remember(encoded.tokens, encoded.mask))
    start = torch.tensor(list(start_ids), device=encoded.tokens.device)
    vectors, count = language.embed(start), len(encoded.tokens)
    return generate(language, [vectors] * count, [start] * count, sampling, rows=rows, most_tokens=most_tokens)


@torch.inference_mode()
def generate_texts(
    system: SystemLike, inputs: Sequence[Any], *, max_new_tokens: int | None = None, batch_size: int = 32, **settings: Any
) -> list[str]:
    """Write a text for each input; the texts do not depend on ``batch_size``.

    Args:
        system: a system with the head ``seq2seq``.
        inputs: raw inputs of its encoder: texts, images or recordings; each may stand in a list of one, or be a conversation with one.
        max_new_tokens: maximum number of tokens of a text; None allows 50 more than a source text has, or the decoder's context.
        batch_size: inputs that are processed together.
        settings: further keywords of ``zoo.language.decoding.sampling.Sampling``, for example ``num_beams=4, length_form="gnmt",
            length_penalty=0.6``; those that are not given are the defaults of the weights (``processor.target_text.generation``).

    Raises:
        ConfigError: a setting is unknown or not allowed, or the system has no processor.
        DataError: an input cannot be used.
    """
    if system.processor is None:
        raise ConfigError("generate: this system has no processor, which inputs need; load the system from a saved directory")
    head: Any = system.head
    part, modality = system.processor["target_text"], str(head.modality)
    items = [_raw(each, modality) for each in _checked(inputs)]
    sampling, length = _sampling(part, settings, max_new_tokens, head.context_length)
    texts = [""] * len(items)
    # Texts of similar length share a batch; seeds follow the numbers of the inputs, so that the order does not matter.
    order = sorted(range(len(items)), key=lambda row: -len(items[row])) if modality == "text" else range(len(items))
    for start in range(0, len(items), batch_size):
        rows = list(order[start : start + batch_size])
        x, mask = system.processor[modality]([items[row] for row in rows])
        encoded = system.encode_ready(modality, x, mask)
        most = _most(encoded.mask) if modality == "text" and length is None else None
        answers = generate_answers(head.decoder, encoded, part.start_token_ids[:1], sampling, most_tokens=most, rows=rows)
        for row, answer in zip(rows, answers, strict=True):
            texts[row] = part.decode(answer.ids)
    return texts


def _most(mask: Bool[Tensor, "batch length"]) -> list[int]:
    return [int(number) + MORE_THAN_SOURCE for number in mask.sum(1)]


def _sampling(part: Any, settings: dict[str, Any], max_new_tokens: int | None, context_length: int) -> tuple[Sampling, int | None]:
    """Return the settings of a call, and the maximum length that the caller or the weights give."""
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise ConfigError(f"generate: there is no setting {unknown[0]!r}; allowed are {', '.join(SETTINGS)}")
    whole = {**part.generation, **{key: value for key, value in settings.items() if value is not None}}
    if whole.get("num_beams", 1) == 1 or whole.get("temperature", 0) > 0:  # the weights' settings of a beam search do not apply
        for key in ("length_penalty", "length_form", "num_beams"):
            if key not in settings:
                whole.pop(key, None)
    length = max_new_tokens if max_new_tokens is not None else whole.get("max_new_tokens")
    if whole.get("temperature", 0) > 0 and whole.get("seed") is None:
        whole["seed"] = fresh_seed()
    if len(part.start_token_ids) > 1:
        whole.setdefault("first_token_id", part.start_token_ids[1])
    whole |= {"max_new_tokens": context_length if length is None else length, "eos_token_ids": (part.eot_token_id,)}
    whole["suppress_tokens"] = tuple(whole.get("suppress_tokens", ()))
    return Sampling(**whole), length


def _checked(inputs: Sequence[Any]) -> Sequence[Any]:
    if isinstance(inputs, str) or not isinstance(inputs, Sequence) or not inputs:
        raise DataError(f"inputs: got {inputs!r:.60}; give a list of at least one text, image or recording")
    return inputs


def _raw(given: Any, modality: str) -> Any:
    """Return the raw input in a prompt: the prompt itself, the only element of a list, or the only item of a conversation."""
    if isinstance(given, Conversation):
        found = list(given.media(modality)) if modality != "text" else [message.text for message in given.messages[:1]]
    else:
        found = list(given) if isinstance(given, list) else [given]
    if len(found) != 1:
        raise DataError(f"a prompt holds {len(found)} inputs of {modality}; this head reads exactly one")
    return found[0]

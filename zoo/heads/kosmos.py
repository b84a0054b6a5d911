"""Kosmos head: a language model over text with image and audio latents, each item between a start and an end symbol.

Papers: Huang et al. 2023, "Language Is Not All You Need: Aligning Perception with Language Models" (Kosmos-1, arXiv 2302.14045), sections
2.1 and 2.2; Peng et al. 2023 (Kosmos-2, arXiv 2306.14824). Reference: transformers ``modeling_kosmos2.py`` (one picture at the front).

A document with one image, for which the connector makes three latents (E0 to E2)::

    <s>  a   <image>  E0  E1  E2  </image>  b  </s>
    .    x   x        .   .   .   x         x  x        x: supervised, predicted from all before it; latents never are

Differences: any encoder of images or audio, any connector, and symbols for audio too; the positions of the items are checked in every
batch. Padding is not computed: documents are packed, each attends only to itself, and logits are computed only for supervised tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError
from zoo.heads.bases.multimodal_lm import Connected, MultimodalLM
from zoo.registry import register
from zoo.types import PLACEHOLDER_IDS, EncoderSpec, LanguageModel, Wiring, on_host

RESAMPLER = {"kind": "resampler", "num_latents": 64}  # 64 latents per image: Kosmos-1, section 2.2
NO_TOKEN = -1  # equals no token id: marks padding and positions outside the document in comparisons
CONNECTORS = {"image": RESAMPLER, "audio": RESAMPLER}  # defaults for modalities that the config does not name


@register("head")
class Kosmos(MultimodalLM):
    """Multimodal language model with latents between start and end symbols; cross entropy of the supervised text tokens.

    Args:
        inputs: output specs of the encoders, by modality.
        language: a causal language model.
        connectors: by modality a file of ``zoo/layers/connectors/`` or a plug-in, or a mapping with its options: ``{kind: kosmos2,
            num_latents: 64}``. Entries for modalities without an encoder are ignored. The default is a Perceiver resampler.
        feature_layer: encoder layer whose output the connectors read, if the encoder can return it; None takes the last one, after the
            final norm. See ``zoo.types.encode``.
        class_token: True gives the connector the class token before the patches, if the encoder has one.

    Raises:
        ConfigError: a connector or modality is unknown, a connector does not fit the encoder's output, or it makes so many tokens of
            one item that they fill the context of the language model.
        DataError: (forward) items do not stand between their symbols.
    """

    processor_defaults = {"template": "kosmos"}  # of the processor "conversation"; a config may override them
    needs_symbols = True
    silent_keywords = ("feature_layer", "class_token")

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        language: LanguageModel,
        connectors: Mapping[str, str | Mapping[str, Any]] = CONNECTORS,
        feature_layer: int | None = None,
        class_token: bool = True,
    ) -> None:
        super().__init__(inputs=inputs, language=language, connectors={**CONNECTORS, **connectors}, feature_layer=feature_layer)
        self.class_token = class_token
        self.conversation: Any = None  # the processor of conversations, which knows the symbols' ids

    def connect(self, wiring: Wiring) -> None:
        """Keep the tiler and the processor of conversations; the latter learns the symbols' ids when it gets a tokenizer."""
        super().connect(wiring)
        self.conversation = None if wiring.processor is None else wiring.processor.get("conversation")

    def spliced(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"], features: Connected, ids: Sequence[str]
    ) -> Float[Tensor, "batch length dim"]:
        """Return the embeddings of the token ids, with latents in place of their placeholders.

        Raises:
            DataError: the numbers of placeholders and latents differ, or an item does not stand between its symbols. The symbols are
                only checked if the processor has a tokenizer, which defines their ids.
        """
        if self.conversation is not None and not token_ids.is_meta:
            spans = self.conversation.spans  # empty until the processor has a tokenizer
            counts = {m: on_host(real).sum(1) for m, (_, real) in features.items() if m in spans}
            refuse_misplaced(on_host(token_ids), on_host(mask), counts, spans, ids)
        return super().spliced(token_ids, mask, features, ids)


def refuse_misplaced(
    token_ids: Int[Tensor, "batch length"],
    mask: Bool[Tensor, "batch length"],
    counts: Mapping[str, Int[Tensor, " items"]],
    spans: Mapping[str, tuple[int, int]],
    ids: Sequence[str] = (),
) -> None:
    """Raise DataError unless each item has one run of placeholders, of the item's length and between its two symbols.

    Args:
        token_ids: token ids with placeholders.
        mask: True at real tokens, False at padding.
        counts: by modality, the number of tokens of each item, in order; items with 0 tokens have no run.
        spans: by modality, the ids of the start and the end symbol.
        ids: names of the documents, for messages.
    """
    around = F.pad(token_ids.masked_fill(~mask, NO_TOKEN), (1, 1), value=NO_TOKEN)  # [B, 1 + length + 1]
    for modality, lengths in counts.items():
        # Row a <image> E E </image> b: here = 0 0 1 1 0 0. A run begins where 0 is followed by 1 and ends where 1 is followed by 0.
        here = around == PLACEHOLDER_IDS[modality]
        rows, firsts = (here[:, 1:] & ~here[:, :-1]).nonzero(as_tuple=True)  # position just before each run
        lasts = (here[:, :-1] & ~here[:, 1:]).nonzero(as_tuple=True)[1]
        before, behind, expected = around[rows, firsts], around[rows, lasts + 1], lengths[lengths > 0]
        start, end = spans[modality]
        if len(rows) == len(expected) and bool(((before == start) & (behind == end) & (lasts - firsts == expected)).all()):
            continue
        runs = [Run(*values) for values in zip(*(x.tolist() for x in (rows, firsts, lasts, before, behind)), strict=True)]
        _explain(modality, runs, expected.tolist(), spans[modality], ids)


@dataclass(frozen=True)
class Run:
    """A run of placeholders in document ``row``, positions ``first`` to ``last - 1``, and the tokens on both sides of it."""

    row: int
    first: int
    last: int
    before: int
    behind: int


def _explain(modality: str, runs: Sequence[Run], expected: Sequence[int], symbols: tuple[int, int], ids: Sequence[str]) -> NoReturn:
    """Raise DataError that describes the first wrong run."""
    start, end = symbols
    for number, run in enumerate(runs):
        length = run.last - run.first
        name = f"{run.row} ({ids[run.row]})" if run.row < len(ids) else str(run.row)
        which = sum(other.row == run.row for other in runs[: number + 1])
        place = f"document {name}: {modality} item {which}, at tokens {run.first} to {run.last - 1},"
        for token, symbol, side, word in ((run.before, start, "after", f"<{modality}>"), (run.behind, end, "before", f"</{modality}>")):
            if token != symbol:
                found = "the edge of the document" if token == NO_TOKEN else f"token {token}"
                raise DataError(
                    f"{place} stands {side} {found}; expected {side} token {symbol} ({word}): put both symbols around every item, and do "
                    "not truncate them (template kosmos does so)"
                )
        if number >= len(expected) or length != expected[number]:
            given = f"the connector makes {expected[number]} tokens of it" if number < len(expected) else "the batch has no features for it"
            raise DataError(f"{place} has {length} placeholders, but {given}; put both symbols between neighbouring items")
    raise DataError(
        f"the batch has features of {len(expected)} {modality} items, but placeholders for {len(runs)} in {len({r.row for r in runs})} "
        "documents; each item needs as many placeholders as the connector makes tokens of it"
    )

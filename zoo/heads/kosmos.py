"""One causal stream of text, pictures and sound: latents of any number of items, each between a start and an end symbol.

Papers: Huang et al. 2023, "Language Is Not All You Need: Aligning Perception with Language Models" (Kosmos-1, arXiv 2302.14045), sections
2.1 and 2.2; Peng et al. 2023 (Kosmos-2, arXiv 2306.14824). Reference: transformers ``modeling_kosmos2.py`` (one picture at the front).

A document with a picture that its connector makes three latents of::

    <s>  a   <image>  E0  E1  E2  </image>  b  </s>
    .    x   x        .   .   .   x         x  x        learnt, each from what stands before it; never a latent

Where we differ: any encoder of images or audio, any connector, and symbols of audio too; where items stand is checked in every batch.
Documents of different lengths are never padded: each attends to itself alone, and only tokens that are learnt are scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError
from zoo.heads.bases.multimodal_lm import Connected, Talking
from zoo.registry import register
from zoo.types import PLACEHOLDER_IDS, EncoderSpec, LanguageModel

RESAMPLER = {"kind": "resampler", "num_latents": 64}  # Kosmos-1, section 2.2: of each picture
NO_TOKEN = -1  # what stands at padding and beyond the edges, for comparing
CONNECTORS = {"image": RESAMPLER, "audio": RESAMPLER}  # where the config says nothing


@register("head")
class Kosmos(Talking):
    """Latents between their symbols, then the language model; cross entropy of the supervised discrete tokens.

    Args:
        inputs: what the encoders give, by modality.
        language: a causal language model.
        connectors: by modality a word of ``zoo.layers.connector.CONNECTORS``, or a mapping with its options: ``{kind: kosmos2,
            num_latents: 64}``. Modalities without an encoder are left out, and those not named take a Perceiver resampler.
        feature_layer: of encoders that show their layers; None the last, normalised. See ``zoo.types.encode``.
        class_token: show the connector the class token before the patches, of encoders that have one.

    Raises:
        ConfigError: an unknown connector or modality, one that cannot work on what the encoder gives, or one that makes as many tokens
            of an item as the language model takes.
        DataError: (forward) items that are not where they should be.
    """

    conversing = {"template": "kosmos"}  # keywords of the processor's part, which a system's config may override

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
        self.conversation: Any = None  # the processor's part, which knows the symbols; the system sets it

    def spliced(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"], features: Connected, ids: Sequence[str]
    ) -> Float[Tensor, "batch length dim"]:
        """Vectors of the token ids, and latents where their placeholders stand.

        Raises:
            DataError: placeholders that are not as many as the latents, or an item that does not stand between its symbols; what
                these are the tokenizer says, and without one the latter is not known.
        """
        if self.conversation is not None and not token_ids.is_meta:
            spans = self.conversation.spans  # none before there is a tokenizer
            refuse_misplaced(token_ids, mask, {m: real.sum(1) for m, (_, real) in features.items() if m in spans}, spans, ids)
        return super().spliced(token_ids, mask, features, ids)


def refuse_misplaced(
    token_ids: Int[Tensor, "batch length"],
    mask: Bool[Tensor, "batch length"],
    counts: Mapping[str, Int[Tensor, " items"]],
    spans: Mapping[str, tuple[int, int]],
    ids: Sequence[str] = (),
) -> None:
    """Raise DataError unless each item's placeholders are one run of its length, between its two symbols.

    Args:
        counts: by modality how many tokens each item has, in order; those without any leave no run.
        spans: by modality the ids of its start and end symbol.
        ids: names of the documents, for messages.
    """
    around = F.pad(token_ids.masked_fill(~mask, NO_TOKEN), (1, 1), value=NO_TOKEN)  # [B, 1 + length + 1]
    for modality, lengths in counts.items():
        here = around == PLACEHOLDER_IDS[modality]
        rows, firsts = (here[:, 1:] & ~here[:, :-1]).nonzero(as_tuple=True)  # what stands before each run
        lasts = (here[:, :-1] & ~here[:, 1:]).nonzero(as_tuple=True)[1]
        before, behind, expected = around[rows, firsts], around[rows, lasts + 1], lengths[lengths > 0]
        start, end = spans[modality]
        if len(rows) == len(expected) and bool(((before == start) & (behind == end) & (lasts - firsts == expected)).all()):
            continue
        runs = [Run(*values) for values in zip(*(x.tolist() for x in (rows, firsts, lasts, before, behind)), strict=True)]
        _explain(modality, runs, expected.tolist(), spans[modality], ids)


@dataclass(frozen=True)
class Run:
    """Placeholders from ``first`` up to ``last`` (not itself) in a row, and the tokens around them."""

    row: int
    first: int
    last: int
    before: int
    behind: int


def _explain(modality: str, runs: Sequence[Run], expected: Sequence[int], symbols: tuple[int, int], ids: Sequence[str]) -> NoReturn:
    """Say what is wrong with the first run that is."""
    start, end = symbols
    for number, run in enumerate(runs):
        length = run.last - run.first
        name = f"{run.row} ({ids[run.row]})" if run.row < len(ids) else str(run.row)
        which = sum(other.row == run.row for other in runs[: number + 1])
        place = f"document {name}: {modality} {which} of it, at tokens {run.first} to {run.last - 1},"
        for token, symbol, side, word in ((run.before, start, "behind", f"<{modality}>"), (run.behind, end, "before", f"</{modality}>")):
            if token != symbol:
                found = "the edge of the document" if token == NO_TOKEN else f"token {token}"
                raise DataError(
                    f"{place} stands {side} {found}; it has to stand {side} {symbol} ({word}): lay symbols around every item, and cut none "
                    "off (template kosmos does)"
                )
        if number >= len(expected) or length != expected[number]:
            given = f"the connector makes {expected[number]} of it" if number < len(expected) else "the batch has no features of it"
            raise DataError(f"{place} has {length} placeholders, but {given}; between two items both symbols have to stand")
    raise DataError(
        f"the batch has features of {len(expected)} items of {modality}, but placeholders of {len(runs)} in {len({r.row for r in runs})} "
        "documents; each item needs as many placeholders as the connector makes tokens of it"
    )

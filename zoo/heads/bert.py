"""Pre-training head of BERT's family: hidden words from both sides, and whether two texts belong together.

Papers: Devlin et al. 2018 (arXiv 1810.04805), section 3.1; Liu et al. 2019 (RoBERTa, arXiv 1907.11692), hidden words alone; Lan et al.
2019 (ALBERT, arXiv 1909.11942), section 3.1, whose two texts are in order or swapped. References: transformers 5.17,
``BertForPreTraining``, ``RobertaForMaskedLM``, ``AlbertForPreTraining``.

Where we differ: logits are computed at the chosen places alone; no dropout before ALBERT's classifier. Which words are hidden is
decided with the data (``zoo.data.masking``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.mlp import find_activation
from zoo.registry import register
from zoo.types import IGNORED, MASKED, Accepts, Batch, Encoded, EncoderSpec, HeadOutput, SystemLike

SEQUENCES = {"next": "nsp", "order": "sop"}  # what is asked of two texts: how its metrics are called
GUESSES = 5


@register("head")
class BertHead(nn.Module):
    """Predict the tokens at chosen places, and tell pairs of texts apart; the loss is the sum of the two means.

    The decoder is the encoder's table of words, which stays the encoder's: saved once, and asked for through
    ``encoder.word_logits``. ``tie`` says which encoder; a system does so when it is put together.

    Args:
        inputs: what the text encoder gives.
        masked_lm: whether hidden tokens are predicted.
        sequence: what is asked of two texts in a row, of the pooled vector: "next", whether the second follows the first (label 0)
            or comes from elsewhere (1); "order", whether they stand in order (0) or swapped (1). None: nothing.
        vocab_size: of the decoder; None is the encoder's.
        activation: between the two layers.
        eps: of the norm between them.
        tied: False gives the decoder a matrix of its own.

    Raises:
        ConfigError: nothing to learn, an unknown word, or an encoder that lacks what is read.
        DataError: (forward) a batch without what is learnt.
    """

    accepts = Accepts(modalities=("text",), reads="tokens")
    verbs = ("fill_mask",)
    evaluation = "masked_lm"

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        masked_lm: bool = True,
        sequence: str | None = None,
        vocab_size: int | None = None,
        activation: str = "gelu",
        eps: float = 1e-12,
        tied: bool = True,
    ) -> None:
        super().__init__()
        spec = inputs["text"]
        _refuse(spec, masked_lm=masked_lm, sequence=sequence, vocab_size=vocab_size, tied=tied)
        self.masked_lm, self.asked, self.tied = masked_lm, sequence, tied
        self.reads = ("tokens",) if sequence is None else ("tokens", "pooled")
        self.needs_masking = masked_lm  # of the data; see ``zoo.runs.check.check``
        self._words: tuple[Any, ...] = ()  # in a tuple, so that the encoder is no submodule and its table is saved once
        if masked_lm:
            width, size = spec.word_dim or spec.dim, vocab_size or spec.vocab_size
            assert size is not None
            self.dense = nn.Linear(spec.dim, width)
            self.activation = find_activation(activation)
            self.norm = nn.LayerNorm(width, eps=eps)
            self.decoder = None if tied else nn.Linear(width, size, bias=False)
            self.bias = nn.Parameter(torch.zeros(size))
        self.sequence = nn.Linear(spec.dim, 2) if sequence is not None else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def tie(self, encoders: Mapping[str, Any]) -> None:
        """Share the table of words of the text encoder."""
        if self.masked_lm and self.tied:
            self._words = (encoders["text"],)

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Loss of this process's items.

        ``outputs`` holds ``logits`` [chosen, vocab_size] and ``labels`` [chosen] of the hidden tokens in the order of the batch, and
        ``sequence_logits`` [batch, 2].
        """
        if "text" not in encoded:
            raise DataError("the batch holds no text, which head 'bert' reads")
        output = HeadOutput(None)
        for learnt, part in ((self.masked_lm, self._masked), (self.sequence is not None, self._sequence)):
            if learnt:
                loss = part(encoded["text"], batch, output)
                output.loss = loss if output.loss is None else output.loss + loss
        return output

    def _masked(self, encoded: Encoded, batch: Batch, output: HeadOutput) -> Float[Tensor, ""]:
        """Mean over the chosen places; zero, with gradients of zero, where there is none."""
        labels = _masked_labels(batch, encoded).flatten()  # [B * L]
        vectors = encoded.tokens.flatten(0, 1)  # [B * L, dim]
        if not labels.is_meta:  # without data every place stands for a chosen one
            chosen = (labels != IGNORED).nonzero()[:, 0]
            labels, vectors = labels[chosen], vectors[chosen]
        logits = self.word_logits(vectors)
        loss = F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
        if len(labels):
            hits = (logits.detach().argmax(1) == labels).float().mean()
            output.metrics |= {"mlm_loss": loss.detach(), "mlm_accuracy": hits, "mlm_perplexity": loss.detach().exp()}
        output.outputs |= {"logits": logits, "labels": labels}
        return loss

    def word_logits(self, vectors: Float[Tensor, "chosen dim"]) -> Float[Tensor, "chosen vocab_size"]:
        """Scores of each entry of the vocabulary, in fp32 or wider.

        Raises:
            ConfigError: the head is tied, but to no encoder.
        """
        if self.tied and not self._words:
            raise ConfigError("head 'bert' shares the encoder's table of words, and there is no encoder: build a system, or set tied=false")
        x = self.norm(self.activation(self.dense(vectors)))
        logits = (self._words[0].word_logits(x) if self.decoder is None else self.decoder(x)) + self.bias
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _sequence(self, encoded: Encoded, batch: Batch, output: HeadOutput) -> Float[Tensor, ""]:
        assert encoded.pooled is not None and self.sequence is not None and self.asked is not None
        logits, labels = self.sequence(encoded.pooled).float(), _pair_labels(batch, self.asked)
        name = SEQUENCES[self.asked]
        loss = F.cross_entropy(logits, labels)
        hits = (logits.detach().argmax(1) == labels).float().mean()
        output.metrics |= {f"{name}_loss": loss.detach(), f"{name}_accuracy": hits}
        output.outputs["sequence_logits"] = logits
        return loss

    @torch.inference_mode()
    def fill_mask(self, system: SystemLike, texts: str | Sequence[str], *, top_k: int = GUESSES) -> list[list[list[tuple[str, float]]]]:
        """Likeliest tokens, with their probabilities, at each mask symbol of each text.

        Raises:
            ConfigError: the head does not predict tokens, or the tokenizer has no mask symbol.
            DataError: a text without a mask symbol.
        """
        if not self.masked_lm:
            raise ConfigError("fill_mask: this head was built with masked_lm=false")
        if system.processor is None:
            raise ConfigError("fill_mask: the system has no processor; load it from a saved directory")
        part = system.processor["text"]
        symbol, texts = part.mask_token_id, [texts] if isinstance(texts, str) else list(texts)
        found = []
        for text in texts:  # one by one: few are asked for, and their masks are of any number
            token_ids, mask = part([text])
            places = (token_ids[0] == symbol).nonzero()[:, 0]
            if not len(places):
                raise DataError(f"{text[:60]!r} holds no {part.tokenizer.id_to_token(symbol)}; put it where a word is to be found")
            encoded = system.encode("text", [text])
            shares = self.word_logits(encoded.tokens[0, places.to(encoded.tokens.device)]).softmax(-1)
            best = shares.topk(min(top_k, shares.shape[1]))
            found.append([_named(part, *row) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)])
        return found


def _named(part: Any, token_ids: Sequence[int], shares: Sequence[float]) -> list[tuple[str, float]]:
    return [(part.tokenizer.id_to_token(i) or f"<{i}>", share) for i, share in zip(token_ids, shares, strict=True)]


def _refuse(spec: EncoderSpec, *, masked_lm: bool, sequence: str | None, vocab_size: int | None, tied: bool) -> None:
    if not masked_lm and sequence is None:
        raise ConfigError("masked_lm: false, and sequence is null: there is nothing to learn; set one of the two")
    if sequence is not None and sequence not in SEQUENCES:
        raise ConfigError(f"sequence: there is no {sequence!r}; {name_choices(sequence, SEQUENCES)}, or null")
    if sequence is not None and not spec.pooled:
        raise ConfigError(
            f"sequence: {sequence!r} reads a pooled vector, which the text encoder does not give (pool: none); set "
            "system.encoders.text.pool=cls_tanh, or sequence=null here"
        )
    if masked_lm and tied and spec.vocab_size is not None and spec.word_dim is None:
        raise ConfigError("tied: the text encoder has no table of words that a head can share; choose a bert or albert, or set tied=false")
    if masked_lm and vocab_size is None and spec.vocab_size is None:
        raise ConfigError("vocab_size: null, and no encoder says it; give the number of entries")
    if vocab_size is not None and spec.vocab_size not in (None, vocab_size):
        raise ConfigError(
            f"vocab_size: {vocab_size}, but the text encoder has {spec.vocab_size}; leave it out (null) to take the encoder's"
        )


def _masked_labels(batch: Batch, encoded: Encoded) -> Int[Tensor, "batch length"]:
    labels = batch.targets.get(MASKED)
    if labels is None:
        raise DataError("the batch hides no tokens, which head 'bert' learns to find; set data.masking={}, or system.head.masked_lm=false")
    if labels.shape != encoded.tokens.shape[:2]:
        raise DataError(f"masked has shape {list(labels.shape)}; the texts have {list(encoded.tokens.shape[:2])}")
    return labels


def _pair_labels(batch: Batch, asked: str) -> Int[Tensor, " batch"]:
    labels = batch.targets.get("labels")
    if labels is None:
        raise DataError(
            f"the batch does not say of every item whether its two texts belong together, which head 'bert' learns (sequence: {asked}); "
            f"choose data=documents with data.source.pairs={'next' if asked == 'next' else 'swapped'}, or set system.head.sequence=null"
        )
    if not labels.is_meta and labels.numel() and int(labels.max()) > 1:
        raise DataError(f"labels go up to {int(labels.max())}; of two texts they are 0 (they belong together) or 1")
    return labels

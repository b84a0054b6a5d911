"""Pre-training head of the BERT family: masked or permutation language modelling, and classification of pairs of texts.

Papers: Devlin et al. 2018 (arXiv 1810.04805), section 3.1; Liu et al. 2019 (RoBERTa, arXiv 1907.11692), only masked language modelling;
Lan et al. 2019 (ALBERT, arXiv 1909.11942), section 3.1, sentence-order prediction; Warner et al. 2024 (ModernBERT, arXiv 2412.13663),
without biases; Dong et al. 2019 (UniLM, arXiv 1905.03197), section 2.3, masked tokens predicted from one side; Yang et al. 2019 (XLNet,
arXiv 1906.08237), section 2.2, tokens predicted in a random order. References: transformers 5.17, ``BertForPreTraining``,
``RobertaForMaskedLM``, ``AlbertForPreTraining``, ``ModernBertForMaskedLM``, ``XLNetLMHeadModel``.

Differences: logits are computed only at masked positions; there is no dropout before ALBERT's classifier; UniLM's token types do not
depend on the direction. The data pipeline chooses the positions to predict, the directions and the order (``zoo.data.masking``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.decoder import seen_by_query
from zoo.layers.mlp import find_activation
from zoo.layers.turns import PADDING
from zoo.losses.distributed import share_of_mean
from zoo.registry import register
from zoo.types import (
    IGNORED,
    MASKED,
    PREFIXES,
    TURNS,
    Accepts,
    Batch,
    Encoded,
    EncoderSpec,
    Head,
    HeadOutput,
    SystemLike,
    Wiring,
    encode,
    follow,
    need_encoded,
    on_host,
    send,
)

SEQUENCES = {"next": "nsp", "order": "sop"}  # task on two texts -> prefix of the names of its metrics
GUESSES = 5  # candidates per mask symbol that fill_mask returns by default


@register("head")
class BertHead(Head):
    """Masked language modelling and, if ``sequence`` is set, classification of text pairs; the loss is the sum of both mean losses.

    The decoder's weight is tied to the encoder's word embedding. The encoder keeps ownership of the tied weight: a checkpoint holds it
    once, and the head computes its logits with ``encoder.word_logits``. ``tie`` connects the head with the encoder; ``System`` calls it.

    Args:
        inputs: output spec of the text encoder, under the key "text".
        masked_lm: True to predict masked tokens.
        sequence: task on a pair of texts, solved from the pooled vector. "next": the second text follows the first (label 0) or comes
            from another document (1). "order": the two texts are in order (0) or swapped (1). None turns the task off.
        vocab_size: vocabulary size of the decoder; None takes the encoder's.
        activation: function between the dense layer and the norm.
        eps: added to the variance in the layer norm.
        tied: False gives the decoder its own weight matrix.
        bias: False leaves out the biases of the dense layer and the norm (ModernBERT); the decoder keeps its own.
        transform: False leaves out the dense layer, the activation and the norm: the decoder reads the encoder's tokens (XLM, XLNet).
        permutation: predict tokens that no mask symbol replaces, each from those with an earlier turn (XLNet). The encoder must take turns
            (``takes_turns``), and the data must give them (``data.masking.permutation``).

    Raises:
        ConfigError: both tasks are off, ``sequence`` is unknown, ``permutation`` does not fit the other tasks, or the encoder lacks the
            word embedding, pooled vector or vocabulary size that the tasks need.
        DataError: (forward) the batch lacks the labels of a task.
    """

    accepts = Accepts(modalities=("text",), reads="tokens")
    verbs = ("fill_mask",)
    evaluation = "masked_lm"
    silent_keywords = ("activation", "eps")

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
        bias: bool = True,
        transform: bool = True,
        permutation: bool = False,
    ) -> None:
        super().__init__()
        spec = inputs["text"]
        _refuse(spec, masked_lm=masked_lm, sequence=sequence, vocab_size=vocab_size, tied=tied)
        if permutation and (not masked_lm or sequence is not None):
            raise ConfigError(f"permutation: true needs masked_lm: true and sequence: null; got {masked_lm} and {sequence!r}")
        self.masked_lm, self.asked, self.tied = masked_lm, sequence, tied
        self.reads = ("tokens",) if sequence is None else ("tokens", "pooled")
        self.needs_masking = masked_lm  # the data must mask tokens; read by ``zoo.runs.check.check``
        self.needs_turns = permutation
        # Tuples hide the encoder from nn.Module. As a submodule, its weights would be saved and optimised twice.
        self._words: tuple[Any, ...] = ()
        self._reader: tuple[Any, ...] = ()
        if masked_lm:
            # ALBERT's word embedding is narrower than its layers. The dense layer maps to that width, so that the table can be tied.
            width, size = spec.word_dim or spec.dim, vocab_size or spec.vocab_size
            assert size is not None
            if not transform and width != spec.dim:
                raise ConfigError(f"transform: false needs a word embedding as wide as the encoder; got {width} and {spec.dim}")
            self.dense = nn.Linear(spec.dim, width, bias=bias) if transform else nn.Identity()
            self.activation = find_activation(activation) if transform else nn.Identity()
            self.norm = nn.LayerNorm(width, eps=eps, bias=bias) if transform else nn.Identity()
            self.decoder = None if tied else nn.Linear(width, size, bias=False)
            self.bias = nn.Parameter(torch.zeros(size))
        self.sequence = nn.Linear(spec.dim, 2) if sequence is not None else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)  # initializer_range of BERT's published configs
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def connect(self, wiring: Wiring) -> None:
        """Take the text encoder, and tie the decoder to its word embedding, unless ``tied`` or ``masked_lm`` is False."""
        self._reader = (wiring.encoders["text"],)
        if self.masked_lm and self.tied:
            self._words = (wiring.encoders["text"],)

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with the turns of its tokens in place of the mask, or with a mask by query for the directions of its texts.

        Raises:
            ConfigError: the encoder takes no such mask, or the data predicts in another way than this head.
            DataError: the batch lacks the turns.
        """
        if self.needs_turns or TURNS in batch.targets:
            return self._in_order(batch)
        if PREFIXES not in batch.targets:
            return batch
        if self._reader and not self._reader[0].takes_query_masks:
            raise ConfigError(
                f"data.masking.directions: encoder {type(self._reader[0]).__name__} takes no mask by query; choose encoder bert or "
                "albert, or set directions=null"
            )
        ids = batch.inputs["text"]
        real = batch.masks["text"] if "text" in batch.masks else torch.ones_like(ids, dtype=torch.bool)
        return replace(batch, masks={**batch.masks, "text": seen_by_query(batch.targets[PREFIXES], real)})

    def _in_order(self, batch: Batch) -> Batch:
        """Return the batch whose mask holds turns, with ``PADDING`` at padding."""
        if not self.needs_turns:
            raise ConfigError(
                "data.masking.permutation: true, but head 'bert' predicts masked tokens; set system.head.permutation=true, or "
                "data.masking.permutation=false"
            )
        if self._reader and not self._reader[0].takes_turns:
            raise ConfigError(
                f"permutation: encoder {type(self._reader[0]).__name__} has no second stream that predicts in an order; choose encoder "
                "xlnet, or set system.head.permutation=false"
            )
        turns = batch.need(TURNS, "head 'bert' (permutation)", "set data.masking.permutation=true, or system.head.permutation=false")
        if "text" in batch.masks:
            turns = follow(lambda values, real: values.masked_fill(~real, PADDING), turns, batch.masks["text"])
        return replace(batch, masks={**batch.masks, "text": turns})

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss of this process's items.

        ``outputs`` holds ``logits`` [masked, vocab_size] and ``labels`` [masked] of the masked tokens in the order of the batch, and
        ``sequence_logits`` [batch, 2] if ``sequence`` is set.

        Raises:
            DataError: the batch has no text, or lacks the labels of a task.
        """
        text, output = need_encoded(encoded, "text", "bert"), HeadOutput(None)
        for enabled, part in ((self.masked_lm, self._masked), (self.sequence is not None, self._sequence)):
            if enabled:
                loss = part(text, batch, output)
                output.loss = loss if output.loss is None else output.loss + loss
        return output

    def _masked(self, encoded: Encoded, batch: Batch, output: HeadOutput) -> Float[Tensor, ""]:
        """Return the mean loss over masked positions; without any, a loss of zero whose gradients are zero."""
        masked = _masked_labels(batch, encoded)
        labels = masked.flatten()  # [B * L]
        vectors = encoded.tokens.flatten(0, 1)  # [B * L, dim]
        if not labels.is_meta:  # meta tensors have no values to select by: shape checks treat every position as masked
            # The vocabulary is large, and only about 15 % of the positions are masked: select before the decoder, not after it.
            chosen = send((on_host(masked).flatten() != IGNORED).nonzero()[:, 0], vectors.device)
            labels, vectors = labels[chosen], vectors[chosen]
        logits = self.word_logits(vectors)
        # reduction="mean" would give NaN without masked positions. The sum is then 0, and all parameters still get gradients (DDP).
        loss = share_of_mean(F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1), len(labels))
        if len(labels):
            hits = (logits.detach().argmax(1) == labels).float().mean()
            output.metrics |= {"mlm_loss": loss.detach(), "mlm_accuracy": hits, "mlm_perplexity": loss.detach().exp()}
        output.outputs |= {"logits": logits, "labels": labels}
        return loss

    def word_logits(self, vectors: Float[Tensor, "chosen dim"]) -> Float[Tensor, "chosen vocab_size"]:
        """Return the logits of each vocabulary entry, in fp32 or wider.

        Raises:
            ConfigError: ``tied`` is True, but ``tie`` was not called.
        """
        if self.tied and not self._words:
            raise ConfigError(
                "tied: head 'bert' shares the encoder's word embedding, but is connected to no encoder; build a system, or set tied=false"
            )
        x = self.norm(self.activation(self.dense(vectors)))
        logits = (self._words[0].word_logits(x) if self.decoder is None else self.decoder(x)) + self.bias
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _sequence(self, encoded: Encoded, batch: Batch, output: HeadOutput) -> Float[Tensor, ""]:
        assert encoded.pooled is not None and self.sequence is not None and self.asked is not None
        logits, labels = self.sequence(encoded.pooled).float(), _pair_labels(batch, self.asked)
        name = SEQUENCES[self.asked]
        output.outputs["sequence_logits"] = logits
        seen = _read_both_ways(batch, encoded)
        if seen is not None:  # a first token that sees nothing behind it knows nothing of the pair
            loss = F.cross_entropy(logits[seen], labels[seen], reduction="sum") / max(len(seen), 1)
            loss = share_of_mean(loss, len(seen))
            logits, labels = logits[seen], labels[seen]
        else:
            loss = F.cross_entropy(logits, labels)
        if not len(labels):
            return loss
        hits = (logits.detach().argmax(1) == labels).float().mean()
        output.metrics |= {f"{name}_loss": loss.detach(), f"{name}_accuracy": hits}
        return loss

    @torch.inference_mode()
    def fill_mask(self, system: SystemLike, texts: str | Sequence[str], *, top_k: int = GUESSES) -> list[list[list[tuple[str, float]]]]:
        """Return the most probable tokens and their probabilities at each mask symbol of each text.

        Args:
            system: the system of this head; its processor must hold a tokenizer.
            texts: one text, or several; each contains the mask symbol at least once.
            top_k: number of tokens per mask symbol.

        Returns:
            For each text, for each mask symbol: ``top_k`` pairs of token and probability, most probable first.

        Raises:
            ConfigError: the head was built with ``masked_lm=False``, or the system has no processor or no mask symbol.
            DataError: a text has no mask symbol.
        """
        if not self.masked_lm:
            raise ConfigError("fill_mask: this head was built with masked_lm=false and predicts no tokens; train one with masked_lm=true")
        if system.processor is None:
            raise ConfigError("fill_mask: the system has no processor; load it from a saved directory")
        part = system.processor["text"]
        symbol, texts = part.mask_token_id, [texts] if isinstance(texts, str) else list(texts)
        found = []
        for text in texts:  # one at a time: calls have few texts, and the number of mask symbols differs from text to text
            token_ids, mask = part([text])
            places = (token_ids[0] == symbol).nonzero()[:, 0]
            if not len(places):
                raise DataError(
                    f"{text[:60]!r} contains no mask symbol {part.tokenizer.id_to_token(symbol)}; write it in place of the word to predict"
                )
            encoded = self._read_around(token_ids, mask, places) if self.needs_turns else system.encode("text", [text])
            shares = self.word_logits(encoded.tokens[0, places.to(encoded.tokens.device)]).softmax(-1)
            best = shares.topk(min(top_k, shares.shape[1]))
            found.append([_named(part, *row) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)])
        return found

    def _read_around(self, token_ids: Tensor, mask: Tensor | None, places: Int[Tensor, " chosen"]) -> Encoded:
        """Encode one text so that the tokens at ``places`` are predicted from all others, and not from one another."""
        turns = torch.zeros_like(token_ids)
        turns[0, places] = 1
        return encode(self._reader[0], token_ids, turns if mask is None else turns.masked_fill(~mask, PADDING))


def _named(part: Any, token_ids: Sequence[int], shares: Sequence[float]) -> list[tuple[str, float]]:
    return [(part.tokenizer.id_to_token(i) or f"<{i}>", share) for i, share in zip(token_ids, shares, strict=True)]


def _refuse(spec: EncoderSpec, *, masked_lm: bool, sequence: str | None, vocab_size: int | None, tied: bool) -> None:
    if not masked_lm and sequence is None:
        raise ConfigError("masked_lm: false, and sequence is null, so there is nothing to learn; set one of the two")
    if sequence is not None and sequence not in SEQUENCES:
        raise ConfigError(f"sequence: there is no {sequence!r}; {name_choices(sequence, SEQUENCES)}, or null")
    if sequence is not None and not spec.pooled:
        raise ConfigError(
            f"sequence: {sequence!r} reads a pooled vector, but the text encoder returns none (pool: none); set "
            "system.encoders.text.pool=cls_tanh, or sequence=null here"
        )
    if masked_lm and tied and spec.vocab_size is not None and spec.word_dim is None:
        raise ConfigError(
            "tied: the text encoder has no word embedding that a head can share; choose encoder bert or albert, or set tied=false"
        )
    if masked_lm and vocab_size is None and spec.vocab_size is None:
        raise ConfigError("vocab_size: null, and the text encoder has no vocabulary size to take; set the number of vocabulary entries")
    if vocab_size is not None and spec.vocab_size not in (None, vocab_size):
        raise ConfigError(
            f"vocab_size: {vocab_size}, but the text encoder has {spec.vocab_size}; leave it out (null) to take the encoder's"
        )


def _masked_labels(batch: Batch, encoded: Encoded) -> Int[Tensor, "batch length"]:
    remedy = "set data.masking={}, which masks tokens, or system.head.masked_lm=false"
    labels = batch.need(MASKED, "head 'bert' (masked tokens)", remedy)
    if labels.shape != encoded.tokens.shape[:2]:
        raise DataError(
            f"targets['masked'] has shape {list(labels.shape)}; expected the shape of the texts, {list(encoded.tokens.shape[:2])}"
        )
    return labels


def _read_both_ways(batch: Batch, encoded: Encoded) -> Int[Tensor, " chosen"] | None:
    """Return the rows whose tokens all see each other; None if there is no other row."""
    if PREFIXES not in batch.targets or encoded.mask.is_meta:
        return None
    lengths = on_host(encoded.mask).sum(1)
    return send((on_host(batch.targets[PREFIXES]) == lengths).nonzero()[:, 0], encoded.mask.device)


def _pair_labels(batch: Batch, asked: str) -> Int[Tensor, " batch"]:
    pairs = "next" if asked == "next" else "swapped"
    remedy = f"pairs of texts come from data=documents with data.source.pairs={pairs}; or set system.head.sequence=null"
    labels = batch.need("labels", f"head 'bert' (sequence: {asked})", remedy)
    known = on_host(labels)
    if not known.is_meta and known.numel() and int(known.max()) > 1:
        raise DataError(f"labels go up to {int(known.max())}; allowed for pairs of texts are 0 (they belong together) and 1 (they do not)")
    return labels

"""Head seq2seq: a text decoder with cross-attention to the tokens of any encoder, which writes a text.

With a text encoder it translates (Transformer, MarianMT, T5, BART, mBART), with an image encoder it describes or reads (TrOCR), with an
audio encoder it recognises speech. Papers: Vaswani et al. 2017 (arXiv 1706.03762); Raffel et al. 2019 (arXiv 1910.10683); Lewis et al.
2019 (arXiv 1910.13461); Li et al. 2021 (TrOCR, arXiv 2109.10282). See ``zoo.layers.seq2seq_decoder`` for references and differences, and
``zoo.processors.target_text`` for the meaning of the token ids. Logits are computed only at supervised positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError, name_choices
from zoo.language.decoding.seq2seq import generate_texts
from zoo.layers.experts import SparseSettings, expert_losses
from zoo.layers.seq2seq_blocks import BlockSettings
from zoo.layers.seq2seq_decoder import Seq2SeqDecoder
from zoo.losses.distributed import share_of_mean
from zoo.losses.smoothing import FORMS, smoothed_cross_entropy
from zoo.registry import register
from zoo.types import (
    SUPERVISED,
    TARGET_IDS,
    TARGET_POSITIONS,
    Accepts,
    Batch,
    Encoded,
    EncoderSpec,
    Head,
    HeadOutput,
    Wiring,
    need_encoded,
    on_host,
    send,
)

REMEDY = "the processor 'target_text' makes them of a source with a text to write, or data.denoising makes them of plain texts"


@register("head")
class Seq2Seq(Head):
    """Text decoder with cross-attention to the tokens of one encoder; cross entropy of the supervised tokens.

    Args:
        inputs: output spec of the encoder, under its modality.
        vocab_size: number of token ids; None takes the text encoder's.
        context_length: maximum number of tokens of a target, its start symbol included.
        dim: width of the decoder; None takes the encoder's.
        depth: number of decoder blocks.
        num_heads: attention heads of each block.
        head_dim: width of each head; None takes ``dim / num_heads``.
        hidden_dim: width of the feed-forward part.
        activation: name in ``zoo.layers.mlp.ACTIVATIONS`` or ``GATED`` (T5 1.1: "geglu_tanh").
        norm: "layer", or "rms" (T5).
        norm_place: "after" each sublayer's output was added (2017, Marian, BART), or "before" each sublayer (T5, mBART).
        bias: True gives the linear layers biases (all but T5).
        scaled: False leaves attention scores unscaled (T5).
        positions: "learned", "interleaved" (2017), "halves" (Marian), "tensor2tensor", "relative" (T5) or "none".
        position_offset: row of the learned table that the first token uses (BART: 2).
        num_buckets: rows of the table of relative biases.
        max_distance: distance from which on all distances share one row of it.
        shared_words: True shares the word table of the text encoder.
        tied: True computes the logits with the word table, False with a matrix of their own.
        embedding_norm: normalise the sum of word and position embeddings (BART, mBART).
        final_norm: normalise the output of the last block; None does if norms are before the sublayers.
        scale_embedding: multiply word embeddings by the root of ``dim``.
        scale_output: divide the hidden states by the root of ``dim`` before the logits (T5 1.0).
        output_bias: add a bias to the logits that training does not change (Marian, BART).
        output_transform: put a linear layer, the activation and a norm before the logits (BERT as a decoder).
        eps: added inside the norms.
        dropout: rate on the embeddings and on the output of each sublayer, in training; 0.1 in the papers.
        label_smoothing: share of the probability that the loss spreads over other entries; 0.1 in the paper of 2017.
        smoothing_over: "all" entries (torch, transformers), or the "others" than the right one (tensor2tensor, fairseq).
        num_experts: number of feed-forward networks in every ``expert_step``-th block, of which each token uses one (Switch); None: one
            network for all tokens. Experts have no biases.
        expert_step: distance between blocks with experts; with 2 the blocks 1, 3, 5 and so on, counted from 0.
        expert_capacity: limit on the tokens of one expert in training, see ``zoo.layers.experts``; None: no limit.
        expert_dropout: dropout rate inside the experts.
        router_jitter: noise on the input of the router in training, see ``zoo.layers.experts``.
        balance_weight: weight of the loss that balances the use of the experts.
        router_z_weight: weight of the loss on large logits of the router (ST-MoE).

    Raises:
        ConfigError: the sizes do not fit each other, a name is unknown, or the encoder has no word table to share.
        DataError: (forward) the batch has no targets.
    """

    accepts = Accepts(modalities=("text", "image", "audio"), reads="tokens")
    verbs = ("generate",)
    evaluation = "translation"
    called_apart = ("decoder.blocks.*.cross.key_value",)  # once for all blocks, by ``remember``
    no_weight_decay = ("positions", "distances")
    silent_keywords = (
        *("num_heads", "activation", "norm_place", "scaled", "positions", "position_offset", "max_distance"),
        *("scale_embedding", "scale_output", "eps"),
    )
    processors = ("target_text",)  # in addition to those of the encoders

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        vocab_size: int | None = None,
        context_length: int = 512,
        dim: int | None = None,
        depth: int = 6,
        num_heads: int = 8,
        head_dim: int | None = None,
        hidden_dim: int = 2048,
        activation: str = "relu",
        norm: str = "layer",
        norm_place: str = "after",
        bias: bool = True,
        scaled: bool = True,
        positions: str = "interleaved",
        position_offset: int = 0,
        num_buckets: int = 32,
        max_distance: int = 128,
        shared_words: bool = True,
        tied: bool = True,
        embedding_norm: bool = False,
        final_norm: bool | None = None,
        scale_embedding: bool = True,
        scale_output: bool = False,
        output_bias: bool = False,
        output_transform: bool = False,
        eps: float = 1e-5,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        smoothing_over: str = "all",
        num_experts: int | None = None,
        expert_step: int = 2,
        expert_capacity: float | None = None,
        expert_dropout: float = 0.0,
        router_jitter: float = 0.0,
        balance_weight: float = 0.01,
        router_z_weight: float = 0.001,
    ) -> None:
        super().__init__()
        (self.modality, spec), *_ = inputs.items()
        width, size = spec.dim if dim is None else dim, spec.vocab_size if vocab_size is None else vocab_size
        if size is None:
            raise ConfigError(f"vocab_size: null, but the {self.modality} encoder has no vocabulary to take it from; give a number")
        if shared_words:
            _refuse_other_words(spec, size, width)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing: {label_smoothing}; allowed is 0 to below 1 (0.1 in most recipes)")
        if smoothing_over not in FORMS:
            raise ConfigError(f"smoothing_over: there is no {smoothing_over!r}; {name_choices(smoothing_over, FORMS)}")
        self.vocab_size, self.context_length = size, context_length
        self.shared_words, self.label_smoothing, self.smoothing_over = shared_words, label_smoothing, smoothing_over
        self.balance_weight, self.router_z_weight = balance_weight, router_z_weight
        rates: dict[str, Any] = {"capacity": expert_capacity, "dropout": expert_dropout, "jitter": router_jitter}
        self.experts = SparseSettings.of(num_experts, depth=depth, step=expert_step, **rates)
        settings = BlockSettings(
            dim=width,
            num_heads=num_heads,
            head_dim=_head_dim(width, num_heads) if head_dim is None else head_dim,
            hidden_dim=hidden_dim,
            activation=activation,
            norm=norm,
            norm_place=norm_place,
            eps=eps,
            bias=bias,
            scaled=scaled,
            dropout=dropout,
            experts=self.experts,
        )
        self.decoder = Seq2SeqDecoder(
            settings,
            vocab_size=size,
            context_length=context_length,
            depth=depth,
            memory_dim=spec.dim,
            positions=positions,
            position_offset=position_offset,
            num_buckets=num_buckets,
            max_distance=max_distance,
            own_words=not shared_words,
            tied=tied,
            embedding_norm=embedding_norm,
            final_norm=norm_place == "before" if final_norm is None else final_norm,
            scale_embedding=scale_embedding,
            scale_output=scale_output,
            output_bias=output_bias,
            output_transform=output_transform,
        )

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Leave the largest distance out of the comparison if positions are not relative, and the offset if they are not learned."""
        relative, learned = keywords["positions"] == "relative", keywords["positions"] == "learned"
        return {
            **keywords,
            "max_distance": keywords["max_distance"] if relative else None,
            "position_offset": keywords["position_offset"] if learned else 0,
        }

    def connect(self, wiring: Wiring) -> None:
        """Share the word table of the text encoder; no effect without ``shared_words``."""
        if self.shared_words and "text" in wiring.encoders:
            words: Any = wiring.encoders["text"]
            self.decoder.share(words.embedding)

    def after_precision(self, precision: str | None) -> None:
        """Compute logits from a tied word table, too, in a precision that the linear layers have."""
        self.decoder.table_precision = precision

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss of a batch with the targets "target_ids" and "supervised", padded on the right.

        ``outputs`` holds ``logits`` [num_tokens, vocab_size] and ``labels`` [num_tokens] of the supervised tokens, in batch order.

        Raises:
            DataError: the batch has no targets, or the shapes of token ids and supervision mask differ.
        """
        target_ids, supervised = _targets(batch)
        source = need_encoded(encoded, self.modality, "seq2seq")
        memory = self.decoder.remember(source.tokens, source.mask)
        positions = self._positions(batch, target_ids)
        # State i predicts token i + 1: labels and the mask are shifted by one.
        mask = None if self.experts is None else _before_last(supervised, target_ids.device)
        hidden, labels = self.decoder.states(target_ids[:, :-1], memory, mask=mask, positions=positions), target_ids[:, 1:]
        if supervised.is_meta:  # meta tensors have no values to select by: shape checks treat every position as supervised
            hidden, labels = hidden.flatten(0, 1), labels.flatten()
        else:
            chosen = send(on_host(supervised)[:, 1:].flatten().nonzero()[:, 0], hidden.device)
            hidden, labels = hidden.flatten(0, 1)[chosen], labels.flatten()[chosen]
        logits = self.decoder.logits(hidden)
        # A mean would give NaN for a batch without supervised tokens; this gives 0.
        count = max(len(labels), 1)
        loss = smoothed_cross_entropy(logits, labels, smoothing=self.label_smoothing, over=self.smoothing_over) / count
        further, metrics = expert_losses(self.decoder.blocks, balance_weight=self.balance_weight, z_weight=self.router_z_weight)
        loss = sum(further.values(), share_of_mean(loss, len(labels)))
        return HeadOutput(loss, {**self._metrics(logits.detach(), labels), **metrics}, {"logits": logits, "labels": labels})

    def generate(self, system: Any, inputs: Sequence[Any], **options: Any) -> list[str]:
        """Write a text for each input; see ``zoo.language.decoding.seq2seq.generate_texts`` for the options."""
        return generate_texts(system, inputs, **options)

    def _positions(self, batch: Batch, target_ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch shorter"] | None:
        found = batch.targets.get(TARGET_POSITIONS)
        if found is None:
            return None
        if found.shape != target_ids.shape or (not found.is_meta and found.numel() and int(on_host(found).max()) >= self.context_length):
            raise DataError(
                f"targets['{TARGET_POSITIONS}'] has shape {list(found.shape)}; allowed is {list(target_ids.shape)}, with positions below "
                f"context_length {self.context_length}"
            )
        return found[:, :-1]

    def _metrics(self, logits: Float[Tensor, "num_tokens vocab_size"], labels: Int[Tensor, " num_tokens"]) -> dict[str, Tensor]:
        """Return accuracy and perplexity, the latter without label smoothing."""
        if not len(labels):
            return {}
        surprise = smoothed_cross_entropy(logits, labels, smoothing=0.0) / len(labels)
        return {"token_accuracy": (logits.argmax(1) == labels).float().mean(), "perplexity": surprise.exp()}


def _refuse_other_words(spec: EncoderSpec, vocab_size: int, dim: int) -> None:
    """Raise ConfigError unless the encoder has a word table that the decoder can share."""
    if spec.word_dim is None:
        raise ConfigError(f"shared_words: true, but the {spec.modality} encoder has no word table to share; set shared_words=false")
    if (spec.vocab_size, spec.word_dim) != (vocab_size, dim):
        raise ConfigError(
            f"shared_words: true, but the encoder's word table is [{spec.vocab_size}, {spec.word_dim}] and the decoder needs "
            f"[{vocab_size}, {dim}]; change vocab_size or dim, or set shared_words=false"
        )


def _head_dim(dim: int, num_heads: int) -> int:
    if num_heads < 1 or dim % num_heads:
        raise ConfigError(f"num_heads: {num_heads} does not divide dim {dim}; give a divisor, or head_dim")
    return dim // num_heads


def _before_last(supervised: Bool[Tensor, "batch length"], device: torch.device) -> Bool[Tensor, "batch shorter"]:
    """Return the mask of decoder inputs: True at all tokens before the last supervised one, which are no padding.

    The row ``0 0 1 1 0`` of ``supervised`` gives ``1 1 1 0``: the last token that is predicted is not read.
    """
    later = on_host(supervised)[:, 1:].flip(1).cumsum(1).flip(1) > 0
    return later if later.is_meta else send(later, device)


def _targets(batch: Batch) -> tuple[Int[Tensor, "batch length"], Tensor]:
    """Return the target ids, and the mask that is True at supervised tokens."""
    target_ids = batch.need(TARGET_IDS, "head 'seq2seq'", REMEDY)
    supervised = batch.need(SUPERVISED, "head 'seq2seq'", REMEDY)
    if supervised.shape != target_ids.shape or target_ids.ndim != 2 or target_ids.shape[1] < 2:
        raise DataError(
            f"targets['supervised'] has shape {list(supervised.shape)}, the target ids {list(target_ids.shape)}; both must be "
            "[batch, length] with equal lengths of 2 or more"
        )
    return target_ids, supervised

"""Whisper head: a text decoder with cross-attention to the encoded recording, which predicts the tokens of its transcript.

Paper: Radford et al. 2022 (arXiv 2212.04356), sections 2.2 and 2.3. References: openai-whisper ``model.py``, transformers
``WhisperForConditionalGeneration``. See ``zoo.layers.whisper_decoder`` for differences of the decoder, and
``zoo.processors.transcript`` for the meaning of the token ids.

Differences: logits are computed only at supervised positions; recordings need not be padded to 30 s (short mode of the encoder).
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.language.transcription.transcribe import transcribe
from zoo.layers.whisper_decoder import WhisperDecoder
from zoo.losses.distributed import share_of_mean
from zoo.registry import register
from zoo.types import SUPERVISED, Accepts, Batch, Encoded, EncoderSpec, Head, HeadOutput, need_encoded, on_host, send


@register("head")
class Whisper(Head):
    """Text decoder with cross-attention to a recording; cross entropy of the supervised tokens.

    Args:
        inputs: output spec of the audio encoder, under the key "audio". Its width may differ from the decoder's; Whisper's are equal.
        vocab_size: number of token ids.
        context_length: maximum number of tokens of a transcript, prompt included.
        dim: width of the decoder.
        depth: number of decoder blocks.
        num_heads: attention heads of each block.
        mlp_ratio: hidden width of the MLPs, as a multiple of ``dim``.
        eps: added to the variance in the layer norms.
        alignment_heads: cross-attention heads whose weights follow the speech in time, as [layer, head] pairs; word timestamps are read
            from them. None takes all heads of the upper half of the layers.

    Raises:
        ConfigError: the sizes do not fit each other, or ``alignment_heads`` names a head that does not exist.
        DataError: (forward) the batch has no transcripts.
    """

    accepts = Accepts(modalities=("audio",), reads="tokens")
    verbs = ("transcribe",)
    evaluation = "asr"
    called_apart = ("decoder.blocks.*.cross.key_value",)  # once for all blocks, by ``remember``
    no_weight_decay = ("positions",)
    silent_keywords = ("num_heads", "eps")
    # Not in int8: with ``low_precision = {"int8": ()}`` here and in the encoder, and logits in int8, tiny.en had 18 of 400 words wrong
    # instead of 6 (recordings.py of the benchmarks, windows="seek", on a CPU without VNNI, where weights have 7 bits).
    processors = ("transcript",)  # in addition to those of the encoders
    transcribe = staticmethod(transcribe)

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        vocab_size: int = 51865,
        context_length: int = 448,
        dim: int = 384,
        depth: int = 4,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        eps: float = 1e-5,
        alignment_heads: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.decoder = WhisperDecoder(
            vocab_size=vocab_size,
            context_length=context_length,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            eps=eps,
            memory_dim=inputs["audio"].dim,
        )
        self.alignment_heads = _checked_heads(alignment_heads, depth, num_heads)

    def after_precision(self, precision: str | None) -> None:
        """Compute the logits, too, in a precision that the linear layers have."""
        self.decoder.table_precision = precision

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss of a batch with ``inputs["text"]`` and ``targets["supervised"]``, padded on the right.

        ``outputs`` holds ``logits`` [num_tokens, vocab_size] and ``labels`` [num_tokens] of the supervised tokens, in batch order.

        Raises:
            DataError: the batch has no transcripts, or the shapes of token ids and supervision mask differ.
        """
        token_ids, supervised = _transcripts(batch)
        audio = need_encoded(encoded, "audio", "whisper")
        memory = self.decoder.remember(audio.tokens, audio.mask)
        # State i predicts token i + 1: labels and the mask are shifted by one.
        hidden, labels = self.decoder.states(token_ids[:, :-1], memory), token_ids[:, 1:]
        if supervised.is_meta:  # meta tensors have no values to select by: shape checks treat every position as supervised
            hidden, labels = hidden.flatten(0, 1), labels.flatten()
        else:
            chosen = send(on_host(supervised)[:, 1:].flatten().nonzero()[:, 0], hidden.device)
            hidden, labels = hidden.flatten(0, 1)[chosen], labels.flatten()[chosen]
        logits = self.decoder.logits(hidden)
        # reduction="mean" would give NaN for a batch without supervised tokens; this gives 0.
        loss = share_of_mean(F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1), len(labels))
        return HeadOutput(loss, _metrics(loss.detach(), logits.detach(), labels), {"logits": logits, "labels": labels})


def _transcripts(batch: Batch) -> tuple[Int[Tensor, "batch length"], Tensor]:
    """Return the token ids, and the mask that is True at supervised tokens."""
    token_ids, supervised = batch.inputs.get("text"), batch.targets.get(SUPERVISED)
    if token_ids is None or supervised is None:
        missing = "inputs['text']" if token_ids is None else f"targets[{SUPERVISED!r}]"
        raise DataError(
            f"the batch has no {missing}: no transcripts, which head 'whisper' learns to predict; the processor 'transcript' makes them "
            "of a source of recordings with texts"
        )
    if supervised.shape != token_ids.shape or token_ids.shape[1] < 2:
        raise DataError(
            f"targets['supervised'] has shape {list(supervised.shape)}, the token ids {list(token_ids.shape)}; both must be "
            "[batch, length] with equal lengths of 2 or more"
        )
    return token_ids, supervised


def _metrics(
    loss: Float[Tensor, ""], logits: Float[Tensor, "num_tokens vocab_size"], labels: Int[Tensor, " num_tokens"]
) -> dict[str, Tensor]:
    if not len(labels):
        return {}
    return {"token_accuracy": (logits.argmax(1) == labels).float().mean(), "perplexity": loss.exp()}


def _checked_heads(given: Sequence[Sequence[int]] | None, depth: int, num_heads: int) -> tuple[tuple[int, int], ...]:
    """Return the sorted (layer, head) pairs; raise ConfigError if one does not exist."""
    if given is None:
        return tuple((layer, head) for layer in range(depth // 2, depth) for head in range(num_heads))
    for pair in given:
        if len(pair) != 2 or not (0 <= pair[0] < depth and 0 <= pair[1] < num_heads):
            raise ConfigError(
                f"alignment_heads: {list(pair)}; allowed are [layer, head] with layers 0 to {depth - 1}, heads 0 to {num_heads - 1}"
            )
    return tuple(sorted({(int(layer), int(head)) for layer, head in given}))

"""Whisper's transcripts: token ids of what is said, each from those before it and from the tokens of the recording.

Paper: Radford et al. 2022 (arXiv 2212.04356), sections 2.2 and 2.3. References: openai-whisper ``model.py``, transformers
``WhisperForConditionalGeneration``. ``zoo.layers.whisper_decoder`` says where the decoder differs, ``zoo.processors.transcript`` what ids mean.

Where we differ: logits are computed where something is learnt alone; the recording may be as long as it is (short mode of the encoder).
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.language.transcription.transcribe import transcribe
from zoo.layers.whisper_decoder import WhisperDecoder
from zoo.registry import register
from zoo.types import SUPERVISED, Accepts, Batch, Encoded, EncoderSpec, HeadOutput


@register("head")
class Whisper(nn.Module):
    """A text decoder that attends to a recording; cross entropy of the tokens that are to be learnt.

    Args:
        inputs: what the audio encoder gives; it may be wider or narrower than the decoder, which Whisper's own is not.
        alignment_heads: heads of the attention to the recording that follow what is said, as [layer, head]; None: all of the upper half
            of the layers.

    Raises:
        ConfigError: sizes that do not fit, or a head that there is none of.
        DataError: (forward) a batch without transcripts.
    """

    accepts = Accepts(modalities=("audio",), reads="tokens")
    verbs = ("transcribe",)
    evaluation = "asr"
    processors = ("transcript",)  # beside those of the encoders
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

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Loss of a batch with ``inputs["text"]`` and ``targets["supervised"]``; padding stands on the right.

        ``outputs`` holds ``logits`` [num_tokens, vocab_size] and ``labels`` [num_tokens] of what is learnt, in the order of the batch.
        """
        token_ids, learnt = _transcripts(batch)
        audio = encoded["audio"]
        memory = self.decoder.remember(audio.tokens, audio.mask)
        hidden, labels = self.decoder.states(token_ids[:, :-1], memory), token_ids[:, 1:]
        if learnt.is_meta:  # without data every place stands for one that is learnt
            hidden, labels = hidden.flatten(0, 1), labels.flatten()
        else:
            hidden, labels = hidden[learnt[:, 1:]], labels[learnt[:, 1:]]
        logits = self.decoder.logits(hidden)
        loss = F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
        return HeadOutput(loss, _metrics(loss.detach(), logits.detach(), labels), {"logits": logits, "labels": labels})


def _transcripts(batch: Batch) -> tuple[Int[Tensor, "batch length"], Tensor]:
    """Token ids, and True at those that are learnt."""
    token_ids, learnt = batch.inputs.get("text"), batch.targets.get(SUPERVISED)
    if token_ids is None or learnt is None:
        raise DataError("the batch holds no transcripts, which head 'whisper' learns to write: choose a source of recordings with texts")
    if learnt.shape != token_ids.shape or token_ids.shape[1] < 2:
        raise DataError(
            f"supervised has shape {list(learnt.shape)}, token ids {list(token_ids.shape)}; allowed are equal ones of 2 or more"
        )
    return token_ids, learnt


def _metrics(
    loss: Float[Tensor, ""], logits: Float[Tensor, "num_tokens vocab_size"], labels: Int[Tensor, " num_tokens"]
) -> dict[str, Tensor]:
    if not len(labels):
        return {}
    return {"token_accuracy": (logits.argmax(1) == labels).float().mean(), "perplexity": loss.exp()}


def _checked_heads(given: Sequence[Sequence[int]] | None, depth: int, num_heads: int) -> tuple[tuple[int, int], ...]:
    """Pairs of layer and head, in order."""
    if given is None:
        return tuple((layer, head) for layer in range(depth // 2, depth) for head in range(num_heads))
    for pair in given:
        if len(pair) != 2 or not (0 <= pair[0] < depth and 0 <= pair[1] < num_heads):
            raise ConfigError(
                f"alignment_heads: {list(pair)}; allowed are [layer, head] with layers 0 to {depth - 1}, heads 0 to {num_heads - 1}"
            )
    return tuple(sorted({(int(layer), int(head)) for layer, head in given}))

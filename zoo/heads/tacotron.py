"""Tacotron (1) head: mel frames from the tokens of a text by content-based attention, and linear magnitudes from the mels.

Paper: Wang et al. 2017 (arXiv 1703.10135). Reference: keithito/tacotron ``tacotron.py`` (TensorFlow); no torch version was published.

Differences: losses are means over real frames; the reference trains on padding too, and thereby learns that silence follows. The model
has no stop token: an utterance ends if the attention stays on the last character, or if the output stays silent. Additions to the paper:
guided attention, scheduled sampling, a speaker embedding (see ``zoo.heads.tacotron2``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.heads.bases.synthesis import Pace, Spoken, say_groups, speak, targets_of
from zoo.layers.cbhg import CBHG
from zoo.layers.masked_conv import all_or_mask
from zoo.layers.tacotron_decoder import Stepper, TacotronDecoder
from zoo.layers.teacher_forcing import Speakers, TeacherForcing, fed_frames, join_groups, sampled_frames, whole_groups
from zoo.losses.speech import frame_loss, guided_attention_loss
from zoo.registry import register
from zoo.types import MAGNITUDES, Accepts, Batch, Encoded, EncoderSpec, Head, HeadOutput, Speech, all_real, need_encoded


@register("head")
class Tacotron(Head):
    """Attention GRU, residual GRUs, and a post-net that makes linear magnitudes; mean absolute error of mels and magnitudes.

    Args:
        inputs: output spec of the text encoder, under the key "text".
        num_mels: mel bands per frame, as in the processor ``speech``.
        num_bins: frequency bins of the linear magnitudes: the processor's ``num_fft / 2 + 1``.
        reduction: frames per decoder step; 2 in the paper, 5 in keithito's code.
        prenet_dims: widths of the two layers of the pre-net.
        prenet_dropout: dropout rate of the pre-net, in training.
        dim: width of the attention and of all GRUs of the decoder.
        depth: number of residual GRUs.
        postnet_dim: width of the post-net's CBHG.
        postnet_bank: widest kernel of the CBHG's bank, in frames.
        postnet_channels: channels of the first projection of the CBHG.
        num_speakers: 0 for one voice; otherwise ``targets["labels"]`` holds the speaker's index of each item.
        guided_weight: weight of the guided-attention loss, which favours a diagonal alignment; 0 turns it off.
        guided_width: width of that diagonal, as a share of the text's length.
        low_bins: the loss of this many lowest bins (below 3 kHz in keithito's code) makes up half of the linear loss; 0 turns it off.
        teacher_forcing: share of true frames that are fed back in training, at the first and at the last of ``forcing_steps``.
        forcing_steps: optimizer steps between which the share changes linearly.

    Raises:
        ConfigError: a number is outside its range.
    """

    accepts = Accepts(modalities=("text",), reads="tokens")
    verbs = ("synthesize",)
    evaluation = "tts"

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        num_mels: int = 80,
        num_bins: int = 1025,
        reduction: int = 2,
        prenet_dims: Sequence[int] = (256, 128),
        prenet_dropout: float = 0.5,
        dim: int = 256,
        depth: int = 2,
        postnet_dim: int = 128,
        postnet_bank: int = 8,
        postnet_channels: int = 256,
        num_speakers: int = 0,
        guided_weight: float = 0.0,
        guided_width: float = 0.2,
        low_bins: int = 0,
        teacher_forcing: Sequence[float] = (1.0, 1.0),
        forcing_steps: Sequence[int] = (0, 1),
    ) -> None:
        super().__init__()
        if reduction < 1 or len(prenet_dims) != 2 or not 0 <= low_bins <= num_bins:
            raise ConfigError(
                f"reduction: {reduction}, prenet_dims: {list(prenet_dims)}, low_bins: {low_bins}; allowed are a reduction of 1 or more, "
                f"two widths in prenet_dims, and low_bins from 0 to {num_bins}"
            )
        self.num_mels, self.num_bins, self.reduction, self.num_speakers = num_mels, num_bins, reduction, num_speakers
        self.guided_weight, self.guided_width, self.low_bins = guided_weight, guided_width, low_bins
        self.forcing = TeacherForcing(teacher_forcing, forcing_steps)
        memory_dim = inputs["text"].dim
        self.decoder = TacotronDecoder(
            memory_dim=memory_dim,
            num_mels=num_mels,
            reduction=reduction,
            prenet_dims=(prenet_dims[0], prenet_dims[1]),
            prenet_dropout=prenet_dropout,
            dim=dim,
            depth=depth,
        )
        self.postnet = CBHG(in_dim=num_mels, bank=postnet_bank, dim=postnet_dim, projections=(postnet_channels, num_mels))
        self.linear = nn.Linear(2 * postnet_dim, num_bins)
        self.speakers = Speakers(num_speakers, memory_dim)

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss of a batch with ``targets["mels"]``, ``targets["magnitudes"]`` and, if it is padded, ``targets["frames"]``.

        Raises:
            DataError: mels or magnitudes are missing, or have the wrong number of bands or bins.
        """
        mels, mask = targets_of(batch, self.num_mels)
        linear = batch.targets.get(MAGNITUDES)
        if linear is None or linear.shape[1] != self.num_bins:
            found_shape = "has none" if linear is None else f"has {list(linear.shape)}"
            raise DataError(
                f"targets[{MAGNITUDES!r}] must have shape [batch, {self.num_bins}, frames]; the batch {found_shape}: set "
                f"system.processor.speech.linear to true and num_fft to {2 * (self.num_bins - 1)}"
            )
        text = need_encoded(encoded, "text", "tacotron")
        found, magnitudes, alignments = self.teacher_forced(text, mels, mask, batch.targets.get("labels"))
        (mels, whole), (linear, _) = (whole_groups(each, mask, self.reduction) for each in (mels, linear))
        losses = {"mel_loss": frame_loss(found, mels, whole, distance="l1"), "linear_loss": self._linear_loss(magnitudes, linear, whole)}
        loss = losses["mel_loss"] + losses["linear_loss"]
        steps_mask = whole[:, :: self.reduction]  # whole groups are real or not, so the first frame tells
        if self.guided_weight:
            losses["guided_loss"] = guided_attention_loss(alignments, steps_mask, text.mask, width=self.guided_width)
            loss = loss + self.guided_weight * losses["guided_loss"]
        metrics = {name: value.detach() for name, value in losses.items()}
        # Mean of the largest attention weight per step: near 1 once the alignment is learnt, near 1 / length before.
        metrics["focus"] = (alignments.detach().amax(-1) * steps_mask).sum() / steps_mask.sum()
        return HeadOutput(loss, metrics, {"mels": found, "magnitudes": magnitudes, "alignments": alignments})

    def _linear_loss(self, found: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        whole = frame_loss(found, target, mask, distance="l1")
        if not self.low_bins:  # if set, the bins that matter most for speech get more weight, as in keithito's code
            return whole
        return 0.5 * whole + 0.5 * frame_loss(found[:, : self.low_bins], target[:, : self.low_bins], mask, distance="l1")

    def teacher_forced(
        self,
        text: Encoded,
        mels: Float[Tensor, "batch num_mels frames"],
        mask: Bool[Tensor, "batch frames"] | None = None,
        speakers: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch num_mels whole"], Float[Tensor, "batch num_bins whole"], Float[Tensor, "batch steps length"]]:
        """Return mels, linear magnitudes and attention weights, with true frames as decoder inputs (all, or the scheduled share).

        Args:
            text: encoded text.
            mels: true frames.
            mask: True at real frames; None if no frame is padding.
            speakers: index of each item's voice, for a model with several.
        """
        memory, seen = self.speakers(text.tokens, speakers), all_or_mask(text.mask)
        mask = all_real(mels[:, 0].shape, mels.device) if mask is None else mask
        mels, whole = whole_groups(mels, mask, self.reduction)
        # Targets are float32; the decoder reads frames in the type of its weights.
        fed = fed_frames(mels.to(next(self.decoder.parameters()).dtype), self.reduction)
        share = self.forcing.share
        if share < 1:  # a predicted frame may be fed back, so the steps must run one by one
            stepper = Stepper(self.decoder, memory, seen)
            groups, _, weights = sampled_frames(lambda frame, number: _unstoppable(stepper(frame)), fed, share)
            found, alignments = join_groups(groups, self.num_mels), torch.stack(weights, 1)
        else:
            found, alignments = self.decoder(memory, seen, fed)
        return found, self._magnitudes(found, all_or_mask(whole)), alignments

    def _magnitudes(self, mels: Tensor, mask: Tensor | None) -> Float[Tensor, "batch num_bins frames"]:
        return self.linear(self.postnet(mels.transpose(1, 2), mask)).transpose(1, 2)

    @torch.inference_mode()
    def say(
        self,
        text: Encoded,
        *,
        sound: Any = None,
        max_seconds: float = 20.0,
        seed: int = 0,
        speaker: int | None = None,
        max_steps: int | None = None,
        rest_seconds: float | None = 0.5,
        silent_seconds: float | None = 0.8,
    ) -> Spoken:
        """Generate frames until the attention stays on the last character, or until the output stays silent.

        Args:
            text: encoded text.
            sound: the processor ``speech``, which defines the duration of a frame and the level of silence; None without a processor.
            max_seconds: maximum duration of an utterance.
            seed: unused, because this decoder has no randomness in synthesis; present to match ``Tacotron2.say``.
            speaker: index of the voice, for a model with several.
            max_steps: maximum number of decoder steps; replaces ``max_seconds``.
            rest_seconds: time that the attention stays on the last character before the utterance ends; None turns this off.
            silent_seconds: time of silence before the utterance ends; None turns this off.
        """
        voices = None if speaker is None else text.mask.new_full((len(text.mask),), speaker, dtype=torch.int64)
        memory, seen = self.speakers(text.tokens, voices), all_or_mask(text.mask)
        pace, stepper = Pace.of(sound, self.reduction), Stepper(self.decoder, memory, seen)
        # _unstoppable gives no stop token, so the threshold has no effect.
        watch = pace.watch(text.mask, threshold=0.5, rest_seconds=rest_seconds, silent_seconds=silent_seconds)
        first = memory.new_zeros(len(memory), self.num_mels)
        limit = max_steps or pace.steps(max_seconds)
        groups, alignments = say_groups(lambda frame, number: _unstoppable(stepper(frame)), first, watch, limit)
        steps = watch.num_steps()
        mels, frames = join_groups(groups, self.num_mels), steps * self.reduction
        # Utterances end at different steps: the post-net must not read the frames after an end.
        real = torch.arange(mels.shape[2], device=mels.device) < frames[:, None]
        magnitudes = self._magnitudes(mels, all_or_mask(real))
        return Spoken(mels, frames, torch.stack(alignments, 1), steps, watch.reasons, magnitudes)

    def synthesize(
        self,
        system: Any,
        texts: Sequence[str],
        *,
        batch_size: int = 16,
        max_seconds: float = 20.0,
        seed: int = 0,
        speaker: int | None = None,
        vocoder: str = "griffin_lim",
    ) -> list[Speech]:
        """Synthesise speech from texts; each result holds its alignment, its stop reason and its detected faults.

        Args:
            system: the system of this head.
            texts: texts to speak.
            batch_size: texts per batch; the result does not depend on it.
            max_seconds: maximum duration of an utterance.
            seed: seed of the vocoder's phases.
            speaker: index of the voice, for a model with several.
            vocoder: "griffin_lim", or a name in ``zoo.processors.media.vocoders``.

        Raises:
            ConfigError: a number is outside its range.
            DataError: a text cannot be spoken, or is too long.
        """
        settings = {"speaker": speaker}
        return speak(self, system, texts, batch_size=batch_size, max_seconds=max_seconds, seed=seed, vocoder=vocoder, settings=settings)


def _unstoppable(found: tuple[Tensor, Tensor]) -> tuple[Tensor, None, Tensor]:
    """Return a decoder step's output with None in the place of the stop token, which the first Tacotron does not predict."""
    return found[0], None, found[1]

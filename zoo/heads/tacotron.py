"""The first Tacotron: tokens of a text to mel frames by content-based attention, and mels to linear magnitudes.

Paper: Wang et al. 2017 (arXiv 1703.10135). Reference: keithito/tacotron ``tacotron.py``; there is no published form of it in torch.

Where we differ: losses are means over real frames, where theirs learn that silence follows; the end is found by attention that rests on
the last character, or by silence. Beside the paper: guided attention, scheduled sampling, a table of speakers (see
``zoo.heads.tacotron2``).
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
from zoo.types import MAGNITUDES, Accepts, Batch, Encoded, EncoderSpec, HeadOutput, Speech


@register("head")
class Tacotron(nn.Module):
    """Attention GRU, residual GRUs, a post-net that makes linear magnitudes; mean absolute error of both.

    Args:
        inputs: what the text encoder gives.
        num_mels: as the processor ``speech`` makes them.
        num_bins: of the linear magnitudes: half the processor's ``num_fft`` and one.
        reduction: frames a step; 2 in the paper, 5 in keithito's code.
        dim: of attention and all GRUs of the decoder.
        depth: residual GRUs.
        postnet_dim: of the post-net's CBHG.
        postnet_bank: widest kernel of its bank.
        postnet_channels: of the first of its projections.
        num_speakers: 0 for one voice; else ``targets["labels"]`` tells who speaks.
        guided_weight: of the loss that draws attention to the diagonal; 0 for none.
        guided_width: of that diagonal, as a share of the text.
        low_bins: share of the linear loss that is that of these lowest bins alone (below 3 kHz in keithito's code); 0 for none.
        teacher_forcing: share of true frames that are fed back in training, at the first and at the last of ``forcing_steps``.
        forcing_steps: optimizer steps between which the share changes linearly.

    Raises:
        ConfigError: a number outside its range.
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
                f"reduction: {reduction}, prenet_dims: {list(prenet_dims)}, low_bins: {low_bins}; allowed are 1 or more, two widths, and "
                f"0 to {num_bins}"
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
        """Loss of a batch with ``targets["mels"]``, ``targets["magnitudes"]`` and, where it is padded, ``targets["frames"]``.

        Raises:
            DataError: one of them is missing, or of another width.
        """
        mels, mask = targets_of(batch, self.num_mels)
        linear = batch.targets.get(MAGNITUDES)
        if linear is None or linear.shape[1] != self.num_bins:
            what = "has none" if linear is None else f"has {list(linear.shape)}"
            raise DataError(
                f"targets[{MAGNITUDES!r}] are to be [batch, {self.num_bins}, frames]; the batch {what}: set system.processor.speech.linear "
                f"to true and num_fft to {2 * (self.num_bins - 1)}"
            )
        found, magnitudes, alignments = self.teacher_forced(encoded["text"], mels, mask, batch.targets.get("labels"))
        (mels, whole), (linear, _) = (whole_groups(each, mask, self.reduction) for each in (mels, linear))
        losses = {"mel_loss": frame_loss(found, mels, whole, distance="l1"), "linear_loss": self._linear_loss(magnitudes, linear, whole)}
        loss = losses["mel_loss"] + losses["linear_loss"]
        steps_mask = whole[:, :: self.reduction]
        if self.guided_weight:
            losses["guided_loss"] = guided_attention_loss(alignments, steps_mask, encoded["text"].mask, width=self.guided_width)
            loss = loss + self.guided_weight * losses["guided_loss"]
        metrics = {name: value.detach() for name, value in losses.items()}
        metrics["focus"] = (alignments.detach().amax(-1) * steps_mask).sum() / steps_mask.sum()
        return HeadOutput(loss, metrics, {"mels": found, "magnitudes": magnitudes, "alignments": alignments})

    def _linear_loss(self, found: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        whole = frame_loss(found, target, mask, distance="l1")
        if not self.low_bins:
            return whole
        return 0.5 * whole + 0.5 * frame_loss(found[:, : self.low_bins], target[:, : self.low_bins], mask, distance="l1")

    def teacher_forced(
        self,
        text: Encoded,
        mels: Float[Tensor, "batch num_mels frames"],
        mask: Bool[Tensor, "batch frames"] | None = None,
        speakers: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch num_mels whole"], Float[Tensor, "batch num_bins whole"], Float[Tensor, "batch steps length"]]:
        """Mels, linear magnitudes and attention, each frame from the true ones before it."""
        memory, seen = self.speakers(text.tokens, speakers), all_or_mask(text.mask)
        mask = torch.ones_like(mels[:, 0], dtype=torch.bool) if mask is None else mask
        mels, whole = whole_groups(mels, mask, self.reduction)
        fed, share = fed_frames(mels, self.reduction), self.forcing.share
        if share < 1:
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
        """Frames from tokens alone, until attention rests on the last character, or nothing is heard any more.

        Args:
            sound: the processor ``speech``, which knows how long a frame is and what no sound is.
            max_seconds: the longest utterance.
            seed: not used: nothing is random here.
            max_steps: in the place of ``max_seconds``, where there is no processor.
        """
        voices = None if speaker is None else text.mask.new_full((len(text.mask),), speaker, dtype=torch.int64)
        memory, seen = self.speakers(text.tokens, voices), all_or_mask(text.mask)
        pace, stepper = Pace.of(sound, self.reduction), Stepper(self.decoder, memory, seen)
        watch = pace.watch(text.mask, threshold=0.5, rest_seconds=rest_seconds, silent_seconds=silent_seconds)
        first = memory.new_zeros(len(memory), self.num_mels)
        limit = max_steps or pace.steps(max_seconds)
        groups, alignments = say_groups(lambda frame, number: _unstoppable(stepper(frame)), first, watch, limit)
        steps = watch.num_steps()
        mels, frames = join_groups(groups, self.num_mels), steps * self.reduction
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
        """Say texts; each utterance carries its alignment, the reason it stopped, and its faults.

        Args:
            batch_size: texts at once; what is said does not depend on it.
            max_seconds: the longest utterance.
            seed: of the phases that are looked for.
            speaker: number of the voice, of a model with several.
            vocoder: "griffin_lim", or one of ``zoo.processors.media.vocoders``.

        Raises:
            ConfigError: numbers outside their ranges.
            DataError: a text that cannot be said, or is too long.
        """
        words = {"speaker": speaker}
        return speak(self, system, texts, batch_size=batch_size, max_seconds=max_seconds, seed=seed, vocoder=vocoder, words=words)


def _unstoppable(found: tuple[Tensor, Tensor]) -> tuple[Tensor, None, Tensor]:
    """A step without a stop token."""
    return found[0], None, found[1]

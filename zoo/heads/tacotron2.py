"""Tacotron 2: tokens of a text to mel frames, with location-sensitive attention and a stop token.

Paper: Shen et al. 2017 (arXiv 1712.05884). References: torchaudio ``models/tacotron2.py``, NVIDIA/tacotron2 ``model.py``.

Where we differ: losses are means over real frames, and the post-net's BatchNorm counts those alone, so that padding changes nothing;
the dropout of the pre-net that stays on has a generator of its own when speech is made. Beside the paper: several frames a step
(Wang et al. 2017), guided attention (Tachibana et al. 2017), scheduled sampling (Bengio et al. 2015, arXiv 1506.03099), a table of
speakers whose vector is added to every token, as in DeepVoice 2 and Mellotron.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.heads.bases.synthesis import Pace, Spoken, say_groups, speak, targets_of
from zoo.layers.masked_conv import ConvNorm, all_or_mask
from zoo.layers.prenet import PrenetMasks
from zoo.layers.tacotron2_decoder import Frames, Tacotron2Decoder
from zoo.layers.teacher_forcing import Speakers, TeacherForcing, fed_frames, join_groups, sampled_frames, whole_groups
from zoo.losses.speech import frame_loss, guided_attention_loss, stop_loss
from zoo.registry import register
from zoo.types import Accepts, Batch, Encoded, EncoderSpec, HeadOutput, Speech

EVALUATION_SEED = 0  # of the pre-net's dropout where a batch is evaluated


@register("head")
class Tacotron2(nn.Module):
    """Attention, two LSTMs and a post-net; mean square error of the mels before and after it, cross entropy of the stop token.

    Args:
        inputs: what the text encoder gives.
        num_mels: as the processor ``speech`` makes them.
        reduction: frames a step; 1 in the paper. More are faster and easier to align.
        prenet_dropout: on in training and when speech is made.
        rnn_dim: of both LSTMs.
        location_filters: of the convolution over former attention.
        hidden_dropout: of the LSTMs' states in training, in the place of the paper's zoneout.
        num_speakers: 0 for one voice; else ``targets["labels"]`` tells who speaks.
        stop_weight: of the last step among the others, in the loss of the stop token.
        guided_weight: of the loss that draws attention to the diagonal; 0 for none.
        guided_width: of that diagonal, as a share of the text.
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
        reduction: int = 1,
        prenet_dim: int = 256,
        prenet_dropout: float = 0.5,
        rnn_dim: int = 1024,
        attention_dim: int = 128,
        location_filters: int = 32,
        location_kernel: int = 31,
        hidden_dropout: float = 0.1,
        postnet_dim: int = 512,
        postnet_depth: int = 5,
        postnet_kernel: int = 5,
        postnet_dropout: float = 0.5,
        num_speakers: int = 0,
        stop_weight: float = 1.0,
        guided_weight: float = 0.0,
        guided_width: float = 0.2,
        teacher_forcing: Sequence[float] = (1.0, 1.0),
        forcing_steps: Sequence[int] = (0, 1),
    ) -> None:
        super().__init__()
        _refuse_numbers(reduction, location_kernel, postnet_kernel)
        memory_dim = inputs["text"].dim
        self.num_mels, self.reduction, self.num_speakers = num_mels, reduction, num_speakers
        self.stop_weight, self.guided_weight, self.guided_width = stop_weight, guided_weight, guided_width
        self.forcing = TeacherForcing(teacher_forcing, forcing_steps)
        self.decoder = Tacotron2Decoder(
            memory_dim=memory_dim,
            num_mels=num_mels,
            reduction=reduction,
            prenet_dim=prenet_dim,
            prenet_dropout=prenet_dropout,
            rnn_dim=rnn_dim,
            attention_dim=attention_dim,
            location_filters=location_filters,
            location_kernel=location_kernel,
            hidden_dropout=hidden_dropout,
        )
        self.postnet = _postnet(num_mels, postnet_dim, postnet_depth, postnet_kernel, postnet_dropout)
        self.speakers = Speakers(num_speakers, memory_dim)

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Loss of a batch with ``targets["mels"]`` and, where it is padded, ``targets["frames"]``.

        Raises:
            DataError: there are none, or of another number of mels.
        """
        mels, mask = targets_of(batch, self.num_mels)
        found, after = self.teacher_forced(encoded["text"], mels, mask, batch.targets.get("labels"))
        mels, mask = whole_groups(mels, mask, self.reduction)
        steps_mask = mask[:, :: self.reduction]
        losses = {
            "mel_loss": frame_loss(found.mels, mels, mask),
            "postnet_loss": frame_loss(after, mels, mask),
            "stop_loss": stop_loss(found.stops, steps_mask, weight=self.stop_weight),
        }
        loss = torch.stack(list(losses.values())).sum()
        if self.guided_weight:
            losses["guided_loss"] = guided_attention_loss(found.alignments, steps_mask, encoded["text"].mask, width=self.guided_width)
            loss = loss + self.guided_weight * losses["guided_loss"]
        metrics = {name: value.detach() for name, value in losses.items()}
        metrics["focus"] = (found.alignments.detach().amax(-1) * steps_mask).sum() / steps_mask.sum()
        return HeadOutput(loss, metrics, {"mels": after, "stops": found.stops, "alignments": found.alignments})

    def teacher_forced(
        self,
        text: Encoded,
        mels: Float[Tensor, "batch num_mels frames"],
        mask: Bool[Tensor, "batch frames"] | None = None,
        speakers: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Frames, Float[Tensor, "batch num_mels frames_of_steps"]]:
        """Frames before and after the post-net, each from the true ones before it."""
        memory, seen = self.speakers(text.tokens, speakers), all_or_mask(text.mask)
        mask = torch.ones_like(mels[:, 0], dtype=torch.bool) if mask is None else mask
        mels, frames_mask = whole_groups(mels, mask, self.reduction)
        fed, share = fed_frames(mels, self.reduction), self.forcing.share
        if share < 1:
            stepper = self.decoder.stepper(memory, seen)
            groups, stops, alignments = sampled_frames(lambda frame, number: stepper(frame, None), fed, share)
            found = Frames(join_groups(groups, self.num_mels), torch.stack(stops, 1), torch.stack(alignments, 1))  # type: ignore[arg-type]
        else:
            found = self.decoder(memory, seen, fed, None if self.training else self._masks(memory, EVALUATION_SEED))
        return found, self._after(found.mels, all_or_mask(frames_mask))

    def _masks(self, memory: Tensor, seed: int) -> PrenetMasks | None:
        prenet = self.decoder.prenet
        if memory.is_meta or not prenet.dropout:
            return None
        return PrenetMasks(prenet, seed=seed, device=memory.device, dtype=memory.dtype)

    def _after(self, mels: Tensor, mask: Tensor | None) -> Tensor:
        x = mels if mask is None else mels * mask[:, None]
        for layer in self.postnet:
            x = layer(x, mask)
        return mels + x

    @torch.inference_mode()
    def say(
        self,
        text: Encoded,
        *,
        sound: Any = None,
        max_seconds: float = 20.0,
        seed: int = 0,
        stop_threshold: float = 0.5,
        speaker: int | None = None,
        max_steps: int | None = None,
        rest_seconds: float | None = 1.0,
        silent_seconds: float | None = 1.0,
    ) -> Spoken:
        """Frames from tokens alone, until the stop token, or until attention or sound have come to rest.

        Args:
            sound: the processor ``speech``, which knows how long a frame is and what no sound is.
            max_seconds: the longest utterance.
            seed: of the pre-net's dropout.
            stop_threshold: probability of the stop token that ends an utterance.
            max_steps: in the place of ``max_seconds``, where there is no processor.
        """
        voices = None if speaker is None else text.mask.new_full((len(text.mask),), speaker, dtype=torch.int64)
        memory, seen = self.speakers(text.tokens, voices), all_or_mask(text.mask)
        stepper, masks = self.decoder.stepper(memory, seen), self._masks(memory, seed)
        pace = Pace.of(sound, self.reduction)
        watch = pace.watch(text.mask, threshold=stop_threshold, rest_seconds=rest_seconds, silent_seconds=silent_seconds)
        groups, alignments = say_groups(
            lambda frame, number: stepper(frame, None if masks is None else masks[number]),
            memory.new_zeros(len(memory), self.num_mels),
            watch,
            max_steps or pace.steps(max_seconds),
        )
        steps = watch.num_steps()
        mels, frames = join_groups(groups, self.num_mels), steps * self.reduction
        real = torch.arange(mels.shape[2], device=mels.device) < frames[:, None]
        return Spoken(self._after(mels, all_or_mask(real)), frames, torch.stack(alignments, 1), steps, watch.reasons)

    def synthesize(
        self,
        system: Any,
        texts: Sequence[str],
        *,
        batch_size: int = 16,
        max_seconds: float = 20.0,
        seed: int = 0,
        stop_threshold: float = 0.5,
        speaker: int | None = None,
        vocoder: str = "griffin_lim",
    ) -> list[Speech]:
        """Say texts; each utterance carries its alignment, the reason it stopped, and its faults.

        Args:
            batch_size: texts at once; what is said does not depend on it.
            max_seconds: the longest utterance.
            seed: of the pre-net's dropout and the vocoder's phases.
            speaker: number of the voice, of a model with several.
            vocoder: "griffin_lim", or one of ``zoo.processors.media.vocoders``.

        Raises:
            ConfigError: numbers outside their ranges.
            DataError: a text that cannot be said, or is too long.
        """
        if not 0 < stop_threshold < 1:
            raise ConfigError(f"stop_threshold: {stop_threshold}; allowed is between 0 and 1")
        words = {"stop_threshold": stop_threshold, "speaker": speaker}
        return speak(self, system, texts, batch_size=batch_size, max_seconds=max_seconds, seed=seed, vocoder=vocoder, words=words)


def _postnet(num_mels: int, dim: int, depth: int, kernel: int, dropout: float) -> nn.ModuleList:
    widths = [num_mels, *[dim] * (depth - 1), num_mels]
    return nn.ModuleList(
        ConvNorm(a, b, kernel, activation="tanh" if number < depth - 1 else "none", dropout=dropout)
        for number, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
    )


def _refuse_numbers(reduction: int, location_kernel: int, postnet_kernel: int) -> None:
    if reduction < 1:
        raise ConfigError(f"reduction: {reduction}; allowed is 1 or more frames a step")
    for key, kernel in (("location_kernel", location_kernel), ("postnet_kernel", postnet_kernel)):
        if kernel < 1 or not kernel % 2:
            raise ConfigError(f"{key}: {kernel}; allowed are odd numbers, so that what is seen lies evenly on both sides")

"""Tacotron 2 head: mel frames from the tokens of a text, with location-sensitive attention and a stop token.

Paper: Shen et al. 2017 (arXiv 1712.05884). References: torchaudio ``models/tacotron2.py``, NVIDIA/tacotron2 ``model.py``.

Differences: losses are means over real frames, and the post-net's BatchNorm counts only real frames, so that padding changes nothing.
The pre-net's dropout, which stays on in synthesis, then draws from a separate generator. Additions to the paper: several frames per step
(Wang et al. 2017), guided attention (Tachibana et al. 2017), scheduled sampling (Bengio et al. 2015, arXiv 1506.03099), and a speaker
embedding that is added to every token, as in DeepVoice 2 and Mellotron.
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
from zoo.types import Accepts, Batch, Encoded, EncoderSpec, Head, HeadOutput, Speech, all_real, need_encoded

EVALUATION_SEED = 0  # for the pre-net's dropout when a loss is computed in evaluation mode: equal batches get equal losses


@register("head")
class Tacotron2(Head):
    """Attention, two LSTMs and a post-net; mean square error of the mels before and after it, binary cross entropy of the stop token.

    Args:
        inputs: output spec of the text encoder, under the key "text".
        num_mels: mel bands per frame, as in the processor ``speech``.
        reduction: frames per decoder step; 1 in the paper. Larger values are faster and align more easily.
        prenet_dim: width of the pre-net.
        prenet_dropout: dropout rate of the pre-net, in training and in synthesis.
        rnn_dim: width of both LSTMs.
        attention_dim: width in which queries and keys are compared.
        location_filters: filters of the convolution over earlier attention weights.
        location_kernel: kernel of that convolution, in tokens; odd.
        hidden_dropout: dropout rate on the LSTMs' states in training, in place of the paper's zoneout.
        postnet_dim: channels of the post-net.
        postnet_depth: convolutions of the post-net.
        postnet_kernel: kernel of these convolutions, in frames; odd.
        postnet_dropout: dropout rate of the post-net.
        num_speakers: 0 for one voice; otherwise ``targets["labels"]`` holds the speaker's index of each item.
        stop_weight: weight of an utterance's last step in the stop loss; the other steps have weight 1.
        guided_weight: weight of the guided-attention loss, which favours a diagonal alignment; 0 turns it off.
        guided_width: width of that diagonal, as a share of the text's length.
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
        """Return the loss of a batch with ``targets["mels"]`` and, if it is padded, ``targets["frames"]``.

        Raises:
            DataError: the mels are missing, or have another number of bands than ``num_mels``.
        """
        mels, mask = targets_of(batch, self.num_mels)
        text = need_encoded(encoded, "text", "tacotron2")
        found, after = self.teacher_forced(text, mels, mask, batch.targets.get("labels"))
        mels, mask = whole_groups(mels, mask, self.reduction)
        steps_mask = mask[:, :: self.reduction]  # whole groups are real or not, so the first frame tells
        losses = {
            "mel_loss": frame_loss(found.mels, mels, mask),
            "postnet_loss": frame_loss(after, mels, mask),
            "stop_loss": stop_loss(found.stops, steps_mask, weight=self.stop_weight),
        }
        loss = torch.stack(list(losses.values())).sum()
        if self.guided_weight:
            losses["guided_loss"] = guided_attention_loss(found.alignments, steps_mask, text.mask, width=self.guided_width)
            loss = loss + self.guided_weight * losses["guided_loss"]
        metrics = {name: value.detach() for name, value in losses.items()}
        # Mean of the largest attention weight per step: near 1 once the alignment is learnt, near 1 / length before.
        metrics["focus"] = (found.alignments.detach().amax(-1) * steps_mask).sum() / steps_mask.sum()
        return HeadOutput(loss, metrics, {"mels": after, "stops": found.stops, "alignments": found.alignments})

    def teacher_forced(
        self,
        text: Encoded,
        mels: Float[Tensor, "batch num_mels frames"],
        mask: Bool[Tensor, "batch frames"] | None = None,
        speakers: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Frames, Float[Tensor, "batch num_mels frames_of_steps"]]:
        """Return the frames before and after the post-net, with true frames as decoder inputs (all, or the scheduled share).

        Args:
            text: encoded text.
            mels: true frames.
            mask: True at real frames; None if no frame is padding.
            speakers: index of each item's voice, for a model with several.
        """
        memory, seen = self.speakers(text.tokens, speakers), all_or_mask(text.mask)
        mask = all_real(mels[:, 0].shape, mels.device) if mask is None else mask
        mels, frames_mask = whole_groups(mels, mask, self.reduction)
        # Targets are float32; the decoder reads frames in the type of its weights.
        fed = fed_frames(mels.to(next(self.decoder.parameters()).dtype), self.reduction)
        share = self.forcing.share
        if share < 1:  # a predicted frame may be fed back, so the steps must run one by one
            stepper = self.decoder.stepper(memory, seen)
            groups, stops, alignments = sampled_frames(lambda frame, number: stepper(frame, None), fed, share)
            found = Frames(join_groups(groups, self.num_mels), torch.stack(stops, 1), torch.stack(alignments, 1))  # type: ignore[arg-type]
        else:
            found = self.decoder(memory, seen, fed, None if self.training else self._masks(memory, EVALUATION_SEED))
        return found, self._after(found.mels, all_or_mask(frames_mask))

    def _masks(self, memory: Tensor, seed: int) -> PrenetMasks | None:
        prenet = self.decoder.prenet
        if memory.is_meta or not prenet.dropout:  # nothing to draw
            return None
        return PrenetMasks(prenet, seed=seed, device=memory.device, dtype=memory.dtype)

    def _after(self, mels: Tensor, mask: Tensor | None) -> Tensor:
        x = mels if mask is None else mels * mask[:, None]  # the convolutions would carry padding into real frames
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
        """Generate frames until the stop token, until the attention stays on the last token, or until the output stays silent.

        Args:
            text: encoded text.
            sound: the processor ``speech``, which defines the duration of a frame and the level of silence; None without a processor.
            max_seconds: maximum duration of an utterance.
            seed: seed of the pre-net's dropout.
            stop_threshold: probability of the stop token that ends an utterance, between 0 and 1.
            speaker: index of the voice, for a model with several.
            max_steps: maximum number of decoder steps; replaces ``max_seconds``.
            rest_seconds: time that the attention stays on the last token before the utterance ends; None turns this off.
            silent_seconds: time of silence before the utterance ends; None turns this off.
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
        # Utterances end at different steps: the post-net must not read the frames after an end.
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
        """Synthesise speech from texts; each result holds its alignment, its stop reason and its detected faults.

        Args:
            system: the system of this head.
            texts: texts to speak.
            batch_size: texts per batch; the result does not depend on it.
            max_seconds: maximum duration of an utterance.
            seed: seed of the pre-net's dropout and of the vocoder's phases.
            stop_threshold: probability of the stop token that ends an utterance, between 0 and 1.
            speaker: index of the voice, for a model with several.
            vocoder: "griffin_lim", or a name in ``zoo.processors.media.vocoders``.

        Raises:
            ConfigError: a number is outside its range.
            DataError: a text cannot be spoken, or is too long.
        """
        if not 0 < stop_threshold < 1:
            raise ConfigError(f"stop_threshold: {stop_threshold}; allowed is between 0 and 1")
        settings = {"stop_threshold": stop_threshold, "speaker": speaker}
        return speak(self, system, texts, batch_size=batch_size, max_seconds=max_seconds, seed=seed, vocoder=vocoder, settings=settings)


def _postnet(num_mels: int, dim: int, depth: int, kernel: int, dropout: float) -> nn.ModuleList:
    widths = [num_mels, *[dim] * (depth - 1), num_mels]  # the output is added to the mels, so the last layer has no activation
    return nn.ModuleList(
        ConvNorm(a, b, kernel, activation="tanh" if number < depth - 1 else "none", dropout=dropout)
        for number, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
    )


def _refuse_numbers(reduction: int, location_kernel: int, postnet_kernel: int) -> None:
    if reduction < 1:
        raise ConfigError(f"reduction: {reduction}; allowed is 1 or more frames per step")
    for key, kernel in (("location_kernel", location_kernel), ("postnet_kernel", postnet_kernel)):
        if kernel < 1 or not kernel % 2:
            raise ConfigError(f"{key}: {kernel}; allowed are odd numbers, so that the kernel is centred on its position")

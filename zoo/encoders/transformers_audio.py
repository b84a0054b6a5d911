"""Wrapper for any audio encoder of transformers: wav2vec 2.0 and its relatives, AST, Whisper's encoder, CLAP's audio tower.

Reference: transformers 5.17. The library's own module runs here, with its parameter names, on the features of its own extractor
(``zoo.layers.hosted_features``). ``assets/guide/transformers.md`` lists the model types.

Where we differ:

* ``mels`` [batch, channels, frames] holds whatever the extractor gives; a waveform is one channel of samples.
* A clip in a batch gives what it gives alone. Some of the library's models (wav2vec2-base, which has a group norm) let padding change their
  outputs; their clips run apart by length.
* SpecAugment and LayerDrop inside the model are off, because they make tokens of one clip random.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.errors import ConfigError, DataError, first_line
from zoo.layers.hosted_features import HostedFeatures, default_settings
from zoo.layers.hosted_sequence import (
    Facts,
    facts_of,
    find_facts,
    freeze_unused,
    is_padded_at_the_end,
    one_length_at_a_time,
    shapes_alone,
    try_out,
)
from zoo.layers.hosted_transformers import first_number, import_transformers, parse_config, quiet_and_offline, read_into
from zoo.layers.meta import meta_device
from zoo.layers.pool import masked_mean
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real, on_host

OFF = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}  # randomness inside the models
TRIAL = {True: (1600, 1100), False: (40, 24)}  # lengths of the two clips of a trial: samples of a waveform, or frames
TOWERS = ("audio_model.", "audio_tower.")  # beginnings of the names of an audio tower's weights in a model of several towers
LENGTH_RULE = "_get_feat_extract_output_lengths"  # name of that method of the models
LAYOUTS = ("frames", "mels", "image")  # [batch, frames, channels], [batch, channels, frames], [batch, 1, frames, channels]
REFUSALS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)  # of a model that gets another order of axes


@register("encoder")
class TransformersAudio(Encoder):
    """Audio encoder that gives the last hidden state of a transformers model as tokens, and one pooled vector.

    The pooled vector is the model's own, if it has one as wide as the tokens, else the mean over the clip's tokens.

    Args:
        config: the content of transformers' ``config.json``, including ``model_type``.
        preprocessing: keywords of the audio processor: ``extractor``, the content of ``preprocessor_config.json`` (None is the library's
            default for the model type), and ``max_seconds``.

    Raises:
        ConfigError: transformers is not installed; or the config does not describe an audio encoder, requires custom code, or has a value
            that transformers refuses.
        DataError: (forward) the features have another number of channels, or the model refuses a clip that is too short.
    """

    modality = "audio"
    num_mels: int
    context_length: int

    def __init__(self, *, config: dict[str, Any], preprocessing: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._config = parse_config(config, {}, example="wav2vec2")
        given = dict(preprocessing or {})
        features = HostedFeatures(given.get("extractor") or default_settings(self._config.model_type))
        self.preprocessing = {"max_seconds": features.longest_seconds, **given, "extractor": features.settings}
        self.num_mels, self._frames = features.channels, features.frames
        self._layout: str | None = None  # order of axes that the model takes; found in the trial
        self._fixed_tokens: int | None = None  # of models whose clips have one length
        with torch.inference_mode(False), meta_device():
            shapes = _build(self._config)
        self.dim = first_number(shapes.config, ("hidden_size", "d_model"))
        facts = find_facts(shapes.config, _build, self._encode, self._clips) if self._frames is None else self._facts_of_shapes(shapes)
        self.model: Any = _build(self._config)
        if facts is None:
            facts = facts_of(self.model, self._encode, self._clips)
        freeze_unused(self.model, facts.unused)
        self._pads = facts.pads
        self._longest = features.frames_of(self.preprocessing["max_seconds"])
        self._numbers: list[int] = []  # tokens of a clip of 0, 1, 2, ... frames
        self.context_length = self.num_tokens(self._longest) or self._fixed_tokens or 1

    def _facts_of_shapes(self, shapes: Any) -> Facts:
        """Run a model whose clips have one length on the meta device: it needs no masks, and its sizes are its own."""
        clips = torch.empty(2, self.num_mels, self._frames or 0, device="meta")
        self.dim = self._encode(shapes, clips, None).tokens.shape[2]
        return try_out(shapes, self._encode, lambda _: (clips, 0), padded=False)

    def forward(
        self, mels: Float[Tensor, "batch num_mels frames"], mask: Bool[Tensor, "batch frames"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode features to tokens [batch, num_tokens, dim] and pooled vectors [batch, dim].

        Raises:
            DataError: the features are not those of this model's extractor, or a clip is too short.
        """
        if mels.shape[1] != self.num_mels or (self._frames or mels.shape[2]) != mels.shape[2]:
            raise DataError(f"mels are {list(mels.shape)}; this model takes [batch, {self.num_mels}, {self._frames or 'frames'}]")
        try:
            encoded = self._masked(mels, mask)
        except (RuntimeError, ValueError) as error:  # of a clip that is shorter than a kernel
            raise DataError(f"mels are {list(mels.shape)}, which {type(self.model).__name__} refuses: {error}") from error
        if encoded.pooled is None:
            encoded.pooled = masked_mean(encoded.tokens, encoded.mask)
        return encoded

    def _masked(self, mels: Tensor, mask: Tensor | None) -> Encoded:
        if mels.is_meta and (number := self.num_tokens(mels.shape[2]) or self._fixed_tokens) is not None:
            return shapes_alone(self.model, number, len(mels), self.dim, None if mask is None or self._frames else mask[:, :number])
        if mask is None or self._frames is not None or bool(on_host(mask).all()):
            return self._encode(self.model, mels, None)
        if self._pads and is_padded_at_the_end(mask):
            return self._encode(self.model, mels, mask)
        return one_length_at_a_time(mels, mask, lambda clips: self._encode(self.model, clips, None))

    def num_tokens(self, frames: int) -> int | None:
        """Return the number of tokens of a clip; None if every clip has the same number."""
        if self._frames is not None:
            return None
        if frames >= len(self._numbers):  # all at once: a head that counts placeholders asks for every length
            lengths = torch.arange(max(frames, self._longest) + 1, device="cpu")
            self._numbers = _counts(self.model, lengths).clamp(min=0).tolist()
        return self._numbers[frames]

    def _encode(self, model: Any, mels: Tensor, mask: Tensor | None) -> Encoded:
        """Run the model; the first call finds the order of axes that it takes."""
        if self._layout is None:
            self._layout = "wave" if self.num_mels == 1 else _find_layout(model, mels)
        known = inspect.signature(model.forward).parameters
        masked = {} if mask is None or "attention_mask" not in known else {"attention_mask": mask.long()}
        output = model(_arranged(mels, self._layout), return_dict=True, **masked)
        tokens, pooled = output.get("last_hidden_state"), output.get("pooler_output")
        if tokens is None:
            raise ConfigError(f"{type(model).__name__} gives no last_hidden_state; it is no audio encoder")
        tokens = tokens.flatten(2).transpose(1, 2) if tokens.ndim == 4 else tokens  # a map of frequencies and times
        pooled = pooled if pooled is not None and pooled.shape == tokens[:, 0].shape else None
        if self._frames is not None:
            self._fixed_tokens = tokens.shape[1]
        elif tokens.shape[2] != first_number(model.config, ("hidden_size", "d_model")):
            raise ConfigError(f"{type(model).__name__} gives tokens of width {tokens.shape[2]}, which is not its hidden_size")
        if mask is None:
            return Encoded(tokens, pooled, all_real(tokens.shape[:2], tokens.device))
        numbers = _counts(model, mask.sum(1))
        return Encoded(tokens, pooled, torch.arange(tokens.shape[1], device=tokens.device) < numbers[:, None])

    def _clips(self, model: Any) -> tuple[Tensor, int]:
        """Return two clips of noise for a trial."""
        longest, kept = TRIAL[self.num_mels == 1]
        clips = torch.randn(2, self.num_mels, self._frames or longest, generator=torch.Generator().manual_seed(1))
        return clips, kept

    def read_native(self, source: Any) -> dict[str, Tensor] | None:
        """Return the weights of a directory that transformers saved; None for any other source."""
        if source.library != "transformers":
            return None
        if "audio_config" in vars(self._config):
            tower = {key.split(".", 1)[1]: tensor for key, tensor in source.tensors.items() if key.startswith(TOWERS)}
            return self.read_pretrained(source.directory, tower)
        return self.read_pretrained(source.directory, None if source.adapter is None else source.tensors)

    def read_pretrained(self, directory: str | Path, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the weights of a directory saved by transformers under this encoder's names, without loading them.

        Raises:
            WeightsError: the files are unreadable, or a weight is missing, unexpected or of the wrong shape.
        """
        with meta_device():
            whole = _whole(self._config)  # of which the class and the config are needed
        found = _encoder_of(read_into(whole, directory, tensors))
        return {f"model.{key}": tensor for key, tensor in found.state_dict().items()}


def _whole(config: Any) -> Any:
    """Build transformers' model of a config: the audio tower of a model of several towers, or encoder and decoder."""
    library = import_transformers()
    parsed = vars(config).get("audio_config") or config
    kind = library.MODEL_MAPPING[type(parsed)] if type(parsed) in library.MODEL_MAPPING else None
    kind = kind or getattr(library, type(parsed).__name__.replace("Config", "Model"), None)  # ClapAudioModel
    if not isinstance(kind, type) or kind.main_input_name not in ("input_values", "input_features"):
        raise ConfigError(f"config.model_type: {config.model_type!r} is not an audio encoder; choose one such as wav2vec2, hubert, whisper")
    if vars(parsed).get("enable_fusion"):
        raise ConfigError("config.audio_config.enable_fusion: true needs a second view of long clips, which the processor does not make")
    for key in OFF.keys() & vars(parsed).keys():
        setattr(parsed, key, OFF[key])
    with quiet_and_offline():
        model = kind._from_config(parsed, dtype=torch.get_default_dtype())
    return model.to("meta") if torch.empty(0).is_meta else model  # some parameters are made on the CPU, whatever the default device is


def _encoder_of(whole: Any) -> Any:
    return whole.get_encoder() if whole.config.is_encoder_decoder else whole


def _build(config: Any) -> Any:
    return _encoder_of(_whole(config))


def _find_layout(model: Any, mels: Tensor) -> str:
    reasons = []
    for layout in LAYOUTS:
        try:
            model(_arranged(mels, layout))
            return layout
        except REFUSALS as error:
            reasons.append(f"{layout}: {first_line(error)}")
    raise ConfigError(f"{type(model).__name__} takes no features of shape {list(mels.shape)} in any order ({'; '.join(reasons)})")


def _arranged(mels: Tensor, layout: str) -> Tensor:
    """Return features in the order of axes that a model takes."""
    if layout == "wave":
        return mels[:, 0]
    if layout == "mels":
        return mels
    return mels.transpose(1, 2) if layout == "frames" else mels.transpose(1, 2)[:, None]


def _counts(model: Any, lengths: Tensor) -> Tensor:
    """Return the numbers of tokens of clips, by the model's own rule; without one, each frame is a token."""
    rule = getattr(type(model), LENGTH_RULE, None)
    if rule is None:
        return lengths
    try:
        return rule(model, lengths)
    except ValueError:  # a rule for one length at a time (Moonshine)
        return torch.tensor([rule(model, length) for length in lengths], device=lengths.device)

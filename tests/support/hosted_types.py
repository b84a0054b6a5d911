"""Text and audio encoders of transformers by model type: tiny random models of ours and of the library, and how far they differ."""

from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto import modeling_auto

from zoo.errors import ConfigError
from zoo.layers.hosted_features import HostedFeatures, default_settings
from zoo.layers.hosted_probe import FAILURES, shrunk
from zoo.layers.hosted_transformers import quiet_and_offline
from zoo.registry.construct import build_part

TEXT_TYPES = sorted(
    {
        *modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
        *("canine", "gpt2", "llama", "mistral", "qwen3", "xlnet"),
    }
)
AUDIO_TYPES = (
    *("wav2vec2", "hubert", "wavlm", "sew", "sew-d", "unispeech", "unispeech-sat", "data2vec-audio", "wav2vec2-conformer", "moonshine"),
    *("audio-spectrogram-transformer", "whisper", "clap", "wav2vec2-bert", "speech_to_text", "parakeet_encoder"),
)
SETTINGS: dict[str, dict[str, Any]] = {"esm": {"vocab_size": 97, "pad_token_id": 1}, "xmod": {"default_language": "en_XX"}}
RATE = 16000


def config_of(kind: str, **settings: Any) -> dict[str, Any]:
    """Return the ``config.json`` of a tiny model."""
    with quiet_and_offline():
        return shrunk(transformers.AutoConfig.for_model(kind, **{**SETTINGS.get(kind, {}), **settings}))


def build(family: str, config: dict[str, Any], **keywords: Any) -> Any:
    """Build our encoder with noise on its weights; its config is remembered as ``zoo.create_model`` does."""
    row = {"name": family, "config": config, **keywords}
    encoder = build_part("encoder", row, "encoder").eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    encoder.remember({"encoder": row})
    return encoder


def text_encoder(kind: str, **keywords: Any) -> Any:
    """Return a tiny text encoder of ours."""
    return build("transformers_text", config_of(kind), **keywords)


def their_text_model(kind: str) -> Any:
    """Return a tiny random model of the library; of T5 the encoder."""
    config = config_of(kind)
    with quiet_and_offline():
        parsed = transformers.AutoConfig.for_model(**config)
        parsed.architectures = parsed.architectures or []  # the library reads the list where a type has several models
        text = type(parsed) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
        return (transformers.AutoModelForTextEncoding if text else transformers.AutoModel).from_config(parsed).eval()


def _copy(ours: Any, theirs: Any) -> Any:
    theirs.load_state_dict({key.removeprefix("model."): tensor for key, tensor in ours.state_dict().items()}, strict=True)
    return theirs


@torch.no_grad()
def text_differences(kind: str) -> dict[str, float]:
    """Return how far our hidden states are from the library's, for single texts and in a batch with padding."""
    ours = text_encoder(kind)
    theirs = _copy(ours, their_text_model(kind))
    ids, lengths = torch.randint(10, min(90, ours.vocab_size), (2, 9)), (9, 5)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    expected = [
        theirs(input_ids=ids[row : row + 1, :n], attention_mask=mask[row : row + 1, :n].long())[0][0] for row, n in enumerate(lengths)
    ]
    batch = ours(ids, mask)
    found = {"whole": ours(ids[:1]).tokens[0], "batch": batch.tokens[0], "padded": batch.tokens[1, : lengths[1]]}
    wanted = {"whole": expected[0], "batch": expected[0], "padded": expected[1]}
    scale = max(1.0, float(expected[0].abs().max()))
    return {name: float((found[name] - wanted[name]).abs().max()) / scale for name in found}


def their_audio_model(config: dict[str, Any]) -> Any:
    """Return a random model of the library; of an encoder-decoder the encoder, of CLAP the audio tower."""
    with quiet_and_offline():
        parsed = transformers.AutoConfig.for_model(**config)
        if config["model_type"] == "clap":
            return transformers.ClapAudioModel(parsed.audio_config).eval()
        model = transformers.AutoModel.from_config(parsed).eval()
    return model.get_encoder() if parsed.is_encoder_decoder else model


@torch.no_grad()
def audio_differences(kind: str, **settings: Any) -> dict[str, float]:
    """Return how far our hidden states in a batch are from the library's for each of two clips alone."""
    config = config_of(kind, **settings)
    ours = build("transformers_audio", config)
    theirs = _copy(ours, their_audio_model(config))
    features = HostedFeatures(default_settings(kind))
    rate = features.sample_rate_hz
    clips = [np.random.default_rng(seed).standard_normal(int(rate * seconds)).astype(np.float32) for seed, seconds in ((0, 0.6), (1, 0.37))]
    items = [features(clip) for clip in clips]
    longest = max(item.shape[1] for item in items)
    mels = torch.stack([torch.nn.functional.pad(item, (0, longest - item.shape[1])) for item in items])
    mask = torch.arange(longest) < torch.tensor([item.shape[1] for item in items])[:, None]
    batch, far = ours(mels, mask), {}
    for row, clip in enumerate(clips):
        given = features._extractor(clip, sampling_rate=rate, return_tensors="pt")
        given = {
            key: value[:, :1] if key == "input_features" and value.ndim == 4 else value
            for key, value in given.items()
            if key != "is_longer"
        }
        expected = theirs(**given)[0]
        expected = expected.flatten(2).transpose(1, 2)[0] if expected.ndim == 4 else expected[0]
        found = batch.tokens[row, batch.mask[row]]
        same = found.shape == expected[: len(found)].shape and len(found) >= len(expected) - 1
        far[f"clip {row}"] = float((found - expected[: len(found)]).abs().max() / max(1.0, expected.abs().max())) if same else float("inf")
    return far


def outcome(kind: str, differences: Any) -> tuple[str, str]:
    """Return "equal", "wrong", "refused" or "failed", and the differences or the reason."""
    try:
        torch.manual_seed(0)
        far = differences(kind)
    except (ConfigError, StrictDataclassError, ValueError) as error:
        return "refused", str(error)
    except FAILURES as error:
        return "failed", f"{type(error).__name__}: {error}"
    return ("equal" if max(far.values()) < 1e-5 else "wrong"), ", ".join(f"{name} {value:.1e}" for name, value in far.items())

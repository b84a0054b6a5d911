"""Audio encoders of transformers: the library's hidden states for each clip alone, their features, and what a batch must not change."""

import importlib

import hosted_types
import numpy as np
import pytest
import torch
import transformers

import zoo
import zoo.testing
from zoo.layers.hosted_features import HostedFeatures
from zoo.processors.audio import AudioProcessor
from zoo.registry import find_row
from zoo.registry.construct import build_part

# WavLM gives torch's attention two masks of different types.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
KINDS = ("wav2vec2", "hubert", "wavlm", "sew", "audio-spectrogram-transformer", "whisper", "clap", "wav2vec2-bert", "data2vec-audio")
SOUNDS = [np.random.default_rng(seed).standard_normal(samples).astype(np.float32) * 0.1 for seed, samples in enumerate((9000, 4000, 6543))]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_of_clips_in_a_batch_are_those_of_transformers_alone(kind):
    far = hosted_types.audio_differences(kind)
    assert max(far.values()) < 1e-5, far


def test_a_model_built_on_the_meta_device_leaves_filters_with_values():
    """torchaudio's filters make a constant when they are imported, which is without a value if that happens on the meta device."""
    kaldi, clip = pytest.importorskip("torchaudio.compliance.kaldi"), SOUNDS[0]
    extractor = HostedFeatures({"feature_extractor_type": "ASTFeatureExtractor"})
    expected = extractor(clip)
    with torch.device("meta"):
        importlib.reload(kaldi)
        assert kaldi.EPSILON.is_meta
        found = extractor(clip)
    assert torch.equal(found, expected) and not kaldi.EPSILON.is_meta


def test_models_that_mask_their_padding_run_as_one_batch():
    layer = hosted_types.build("transformers_audio", hosted_types.config_of("wav2vec2", feat_extract_norm="layer"))
    group = hosted_types.build("transformers_audio", hosted_types.config_of("wav2vec2", feat_extract_norm="group"))
    assert layer._pads and not group._pads  # the group norm of wav2vec2-base reads the whole padded clip
    far = hosted_types.audio_differences("wav2vec2", feat_extract_norm="layer")
    assert max(far.values()) < 1e-5, far


def test_the_contract_holds_for_an_encoder_of_waveforms():
    zoo.testing.check_encoder(zoo.create_model("transformers_audio_nano"))


@pytest.fixture
def directory(tmp_path):
    """A directory of a HuBERT, as transformers saves it."""
    hosted_types.their_audio_model(hosted_types.config_of("hubert")).save_pretrained(tmp_path / "hubert")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "hubert")
    return tmp_path / "hubert"


def assert_theirs(directory, model):
    theirs = transformers.AutoModel.from_pretrained(directory).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(directory)
    mels, mask = model.processor["audio"](SOUNDS)
    encoded = model(mels, mask)
    for row, sound in enumerate(SOUNDS):
        expected = theirs(**extractor(sound, sampling_rate=16000, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(encoded.tokens[row, encoded.mask[row]], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_directory_is_loaded_with_its_extractor_and_saved(directory, tmp_path):
    row = find_row(f"transformers/{directory}")
    assert (row.family, row.modality) == ("transformers_audio", "audio")
    encoder = zoo.load(directory)
    assert_theirs(directory, encoder)
    zoo.save(encoder, tmp_path / "saved")
    assert_theirs(directory, zoo.load(tmp_path / "saved"))


@torch.no_grad()
def test_a_system_hears_through_a_directory(directory):
    override = f"encoder@system.encoders.audio=transformers/{directory}"
    system = zoo.create_system("llava_whisper_nano", [override], weights=directory, weights_parts=["encoders.audio"]).eval()
    system.processor.fit(["what is it?"])
    prompts = [["what", sound] for sound in SOUNDS]
    together = system.generate(prompts, max_new_tokens=3, batch_size=3)
    assert together == [system.generate([prompt], max_new_tokens=3)[0] for prompt in prompts]


def test_the_audio_tower_of_clap_is_taken_out_of_the_whole(tmp_path):
    config = transformers.AutoConfig.for_model(**hosted_types.config_of("clap"))
    whole = transformers.ClapModel(config).eval()
    whole.save_pretrained(tmp_path)
    transformers.ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(tmp_path)
    encoder = zoo.create_model(f"transformers/{tmp_path}", weights=tmp_path)
    mels = torch.randn(1, 64, 1001)
    expected = whole.audio_model(mels.transpose(1, 2)[:, None]).last_hidden_state.flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(mels).tokens, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Whisper", "AST", "Clap", "SeamlessM4T"])
def test_features_are_those_of_the_library_and_travel_with_the_processor(kind):
    features = HostedFeatures({"feature_extractor_type": f"{kind}FeatureExtractor"})
    part = AudioProcessor(num_mels=features.channels, extractor=features.settings)
    again = AudioProcessor(**part.settings)
    sound = SOUNDS[0]
    theirs = getattr(transformers, f"{kind}FeatureExtractor")()(sound, sampling_rate=features.sample_rate_hz, return_tensors="pt")
    expected = next(iter(theirs.values()))
    expected = expected[:, 0] if expected.ndim == 4 else expected
    expected = expected if expected.ndim == 2 or kind == "Whisper" else expected.transpose(1, 2)
    found = again.item(sound)
    torch.testing.assert_close(found[None], expected.reshape(1, *found.shape[:1], -1)[..., : found.shape[1]], atol=1e-6, rtol=1e-5)
    assert again.settings == part.settings and again.meta(2)[0].shape[1] == features.channels


REFUSED = {
    "is not an audio encoder": {"model_type": "bert"},
    "enable_fusion: true needs a second view": {"model_type": "clap", "audio_config": {"enable_fusion": True}},
    "transformers has no 'lama'": {"model_type": "lama"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_models_that_hear_nothing_are_refused(message):
    with pytest.raises(zoo.ConfigError, match=message):
        build_part("encoder", {"name": "transformers_audio", "config": REFUSED[message], "preprocessing": {"extractor": EXTRACTOR}}, "x")


EXTRACTOR = {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}


def test_an_extractor_that_transformers_has_not_is_refused():
    with pytest.raises(zoo.ConfigError, match="transformers has no 'os.systemFeatureExtractor'"):
        HostedFeatures({"feature_extractor_type": "os.systemFeatureExtractor"})
    with pytest.raises(zoo.ConfigError, match="num_mels: got 80; the extractor gives 1"):
        AudioProcessor(extractor=EXTRACTOR)
    with pytest.raises(zoo.DataError, match=r"this model takes \[batch, 1, frames\]"):
        zoo.create_model("transformers_audio_nano")(torch.zeros(1, 2, 4000))

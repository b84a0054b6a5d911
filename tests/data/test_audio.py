"""Audio processor: raw clips of every kind to mels, masks, padding, and refused inputs."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from zoo.data.augmentation import Augmentation
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError
from zoo.processors.audio import AudioProcessor
from zoo.processors.image import ImageProcessor
from zoo.processors.media.audio_file import resample
from zoo.types import Sample

SECOND = 16000
STRICT = {"pad_to": "context", "mask": False}


def noise(samples, seed=0):
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


@pytest.fixture
def clips():
    return [noise(SECOND), noise(3 * SECOND + 7, 1), noise(50, 2)]


def test_strict_batches_are_those_of_transformers(clips):
    mels, mask = AudioProcessor(**STRICT)(clips)
    expected = WhisperFeatureExtractor()(clips, sampling_rate=SECOND, return_tensors="pt").input_features
    assert mask is None and mels.shape == (3, 80, 3000)
    # Their extractor clamps at 80 dB below the loudest of the clip as ours does; 2e-6 is of log10 of sums in another order.
    torch.testing.assert_close(mels, expected, rtol=0, atol=2e-6)


def test_a_short_batch_is_the_beginning_of_the_strict_one_and_its_mask_says_how_much(clips):
    mels, mask = AudioProcessor()(clips)
    strict, _ = AudioProcessor(**STRICT)(clips)
    assert mels.shape == (3, 80, 301) and mask.sum(1).tolist() == [100, 301, 1]
    for row, same, real in zip(mels, strict, mask, strict=True):
        assert torch.equal(row[:, real], same[:, : int(real.sum())])


@pytest.mark.parametrize("settings", [{}, {"pad_to": "context"}, STRICT], ids=str)
def test_a_batch_holds_what_single_clips_give(clips, settings):
    processor = AudioProcessor(**settings)
    mels, mask = processor(clips)
    for index, clip in enumerate(clips):
        single, own = processor([clip])
        frames = single.shape[2] if own is None else int(own.sum())
        assert torch.equal(mels[index, :, :frames], single[0, :, :frames])
        assert mask is None or int(mask[index].sum()) == frames
    if settings:
        assert mels.shape[2] == 3000


@pytest.mark.parametrize("num_mels", [80, 128])
def test_raw_clips_of_every_kind_give_the_same_mels(tmp_path, num_mels):
    processor, samples = AudioProcessor(num_mels=num_mels), noise(SECOND)
    soundfile.write(tmp_path / "clip.wav", samples, SECOND, subtype="FLOAT")
    mels = processor.item(samples)
    stereo = np.stack([samples, samples])
    raws = [tmp_path / "clip.wav", str(tmp_path / "clip.wav"), (tmp_path / "clip.wav").read_bytes(), torch.from_numpy(samples)]
    raws += [(samples, SECOND), (stereo, SECOND), (torch.from_numpy(stereo), SECOND), (samples.astype(np.float64), 16000.0), mels]
    for raw in raws:
        assert torch.equal(processor.item(raw), mels)
    assert mels.shape == (num_mels, 100)


def test_another_rate_is_resampled():
    processor, samples = AudioProcessor(), noise(2 * 22050)
    expected = processor.item(resample(samples, 22050, SECOND))
    assert torch.equal(processor.item((samples, 22050)), expected) and expected.shape[1] == 200


def test_silence_is_a_sound():
    mels, mask = AudioProcessor()([np.zeros(SECOND, dtype=np.float32)])
    assert (mels == -1.5).all() and mask.all()


def test_ready_mels_pass_and_their_padding_is_found_again(clips):
    processor = AudioProcessor()
    mels, mask = processor(clips)
    again, found = processor(mels)
    assert again is mels and torch.equal(found, mask)
    assert processor(torch.randn(2, 80, 10))[1].all()
    strict = AudioProcessor(**STRICT)
    assert strict(strict(clips)[0])[1] is None


def test_one_path_is_one_clip(tmp_path):
    soundfile.write(tmp_path / "clip.flac", noise(SECOND), SECOND)
    assert AudioProcessor()(str(tmp_path / "clip.flac"))[0].shape == AudioProcessor()([tmp_path / "clip.flac"])[0].shape == (1, 80, 100)


@pytest.mark.parametrize("rate", [SECOND, 44100])
def test_long_clips_are_refused_or_cut(tmp_path, rate):
    samples = noise(int(2.5 * rate))
    soundfile.write(tmp_path / "long.wav", samples, rate, subtype="FLOAT")
    for raw in (tmp_path / "long.wav", (samples, rate)):
        with pytest.raises(DataError, match="too_long=cut"):
            AudioProcessor(max_seconds=2.0).item(raw)
        cut = AudioProcessor(max_seconds=2.0, too_long="cut").item(raw)
        assert cut.shape == (80, 200)
    exact = (noise(2 * rate), rate)
    assert AudioProcessor(max_seconds=2.0).item(exact).shape == (80, 200)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (np.zeros(0, dtype=np.float32), "shape"),
        (np.full(100, np.nan, dtype=np.float32), "not finite"),
        (np.zeros((2, 100), dtype=np.float32), "array_like|sample_rate_hz"),
        ((np.zeros(100, dtype=np.float32), 0), "sample rate"),
        ((np.zeros(100, dtype=np.float32), "16 kHz"), "sample rate"),
        (np.arange(100), "int64"),
        (np.arange(100.0), "divide them"),
        (7, "made from int"),
        (None, "made from NoneType"),
        (torch.zeros(2, 100), "allowed are float mels"),
        (torch.zeros(80, 3001), "1 to 3000 frames"),
        (torch.zeros(80, 0), "1 to 3000 frames"),
        ("nowhere.wav", "no such file"),
    ],
)
def test_what_is_no_clip_is_refused(raw, words):
    with pytest.raises(DataError, match=words):
        AudioProcessor().item(raw)


@pytest.mark.parametrize("raw", [torch.zeros(1, 20, 10), torch.zeros(1, 80, 10, dtype=torch.int64), torch.zeros(1, 1, 80, 10)])
def test_ready_batches_of_another_shape_are_refused(raw):
    with pytest.raises(DataError, match=r"\[batch, 80, frames\]"):
        AudioProcessor()(raw)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pad_to": "longestt"}, "did you mean 'longest'"),
        ({"too_long": "cutt"}, "did you mean 'cut'"),
        ({"mask": False}, "pad_to=context only"),
        ({"sample_rate_hz": 22050}, "sample_rate_hz: got 22050"),
        ({"max_seconds": 31.0}, "at most 30"),
        ({"max_seconds": 0.0}, "max_seconds: got 0.0"),
        ({"num_mels": 0}, "num_mels 0"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        AudioProcessor(**settings)


@pytest.mark.parametrize("settings", [{}, {**STRICT, "num_mels": 128, "too_long": "cut", "max_seconds": 12.5}])
def test_settings_build_the_same_processor_again(settings, tmp_path):
    processor = AudioProcessor(**settings)
    Processor({"audio": processor}).save(tmp_path)
    assert Processor.load(tmp_path)["audio"].settings == processor.settings == {**AudioProcessor().settings, **settings}


@pytest.mark.parametrize("settings", [{}, STRICT])
def test_the_batch_without_data_has_the_shape_of_a_full_one(settings):
    processor = AudioProcessor(**settings)
    (mels, mask), (full, real) = processor.meta(2), processor([noise(30 * SECOND)] * 2)
    assert mels.is_meta and mels.shape == full.shape and (mask is None) == (real is None)
    assert mask is None or mask.shape == real.shape


def test_a_sample_with_sound_goes_through_augmentation_of_images_as_it_is():
    sample = Sample("one", {"audio": noise(100)})
    varied = Augmentation()(sample, np.random.default_rng(0), ImageProcessor(image_size=8))
    assert varied.inputs["audio"] is sample.inputs["audio"]

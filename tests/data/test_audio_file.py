"""Audio files of every kind against the samples that were written, and messages about broken files."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from zoo.errors import ConfigError, DataError
from zoo.processors.media import audio_file
from zoo.processors.media.audio_file import checked_rate, read_audio, resample, stream_blocks, to_mono

RATE = 22050
# Largest error of a sample: half a step of so many bits, companding, or what a perceptual coder leaves of a tone.
KINDS = {
    "pcm16.wav": ({}, 2**-15),
    "pcm8.wav": ({"subtype": "PCM_U8"}, 2**-7),
    "pcm24.wav": ({"subtype": "PCM_24"}, 2**-23),
    "float.wav": ({"subtype": "FLOAT"}, 1e-7),
    "ulaw.wav": ({"subtype": "ULAW"}, 0.02),
    "plain.flac": ({}, 2**-15),
    "plain.aiff": ({}, 2**-15),
    "vorbis.ogg": ({}, 0.02),
    "mpeg.mp3": ({}, 0.02),
}
EVERY_KIND = pytest.mark.parametrize("name", KINDS)


def tone(hertz, rate=RATE, seconds=1.0, peak=0.5):
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def recording(tmp_path):
    """Write two channels; returns the path, and what one channel of them is."""

    def write(name, **keywords):
        channels = np.stack([tone(440), tone(330, peak=0.2)], axis=1)
        soundfile.write(tmp_path / name, channels, RATE, **{**KINDS[name][0], **keywords})
        return tmp_path / name, channels.mean(1)

    return write


@EVERY_KIND
def test_every_kind_gives_the_mean_of_the_channels_that_were_written(recording, name):
    path, expected = recording(name)
    found, rate = read_audio(path)
    assert rate == RATE and found.dtype == np.float32 and len(found) == len(expected)
    assert np.abs(found - expected)[2000:-2000].max() <= KINDS[name][1]


@EVERY_KIND
def test_bytes_in_memory_give_what_the_file_gives(recording, name):
    path, _ = recording(name)
    assert np.array_equal(read_audio(path.read_bytes())[0], read_audio(path)[0])


def test_g722_is_read_by_ffmpeg(tmp_path):
    """Decoded samples of a subband coder are late by 22 samples; the first hundreds adapt to the tone."""
    av = pytest.importorskip("av")
    path, samples = tmp_path / "tone.g722", tone(300, 16000)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    found, rate = read_audio(path)
    assert rate == 16000 and np.abs(found[1022:8022] - samples[1000:8000]).max() < 0.03


@EVERY_KIND
@pytest.mark.parametrize("share", [0.99, 0.5])
def test_a_recording_cut_short_is_refused(recording, name, share, tmp_path):
    data = recording(name)[0].read_bytes()
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(data[: int(len(data) * share)])
    if name == "mpeg.mp3" and share == 0.99:
        pytest.skip("what an MP3 lacks is told apart from its writer's rounding from a tenth on")
    with pytest.raises(DataError, match="cut short"):
        read_audio(cut)


@EVERY_KIND
def test_flipped_bytes_give_samples_or_a_data_error(recording, name):
    data, generator = recording(name)[0].read_bytes(), np.random.default_rng(0)
    for trial in range(30):
        broken = bytearray(data)
        for place in generator.integers(0, len(data) if trial % 2 else 100, 5):
            broken[place] = generator.integers(256)
        try:
            assert np.isfinite(read_audio(bytes(broken))[0]).all()
        except DataError:
            pass


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "the file is empty"), (b"RIFF is how it begins" * 20, "not a recording"), (b"plain text" * 50, "not a recording")],
)
def test_what_is_no_recording_is_refused_with_its_name(tmp_path, content, words):
    path = tmp_path / "strange.wav"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"strange.wav: .*{words}"):
        read_audio(path)


def test_missing_files_folders_and_empty_recordings_are_refused(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.empty(0), 16000)
    for path, words in (("no.wav", "no such file"), ("", "cannot be opened"), ("none.wav", "holds no sound")):
        with pytest.raises(DataError, match=words):
            read_audio(tmp_path / path)
    with pytest.raises(DataError, match="holds no sound"):
        list(stream_blocks(tmp_path / "none.wav", sample_rate_hz=16000))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e4])
def test_samples_that_are_not_finite_or_far_too_loud_are_refused(tmp_path, value):
    samples = tone(440)
    samples[7] = value
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    for read in (lambda path: read_audio(path), lambda path: list(stream_blocks(path, sample_rate_hz=8000))):
        with pytest.raises(DataError, match="not finite|divide them by"):
            read(tmp_path / "bad.wav")


def test_a_recording_without_ffmpeg_says_what_to_install(recording, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "prompt.g722").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match="zoo install audio"):
        read_audio(tmp_path / "prompt.g722")


def test_a_missing_library_is_a_config_error_with_its_extra(recording, monkeypatch):
    path, _ = recording("pcm16.wav")
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ConfigError, match=r"zoo install audio"):
        read_audio(path)


def test_too_long_a_recording_is_refused_or_cut(recording):
    path, expected = recording("float.wav")
    with pytest.raises(DataError, match=r"longer than 0.5 s; .*too_long=cut"):
        read_audio(path, max_seconds=0.5)
    found, _ = read_audio(path, max_seconds=0.5, cut=True)
    assert len(found) == RATE // 2 and np.allclose(found, expected[: RATE // 2], atol=1e-7)
    assert len(read_audio(path, max_seconds=1.0)[0]) == RATE


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_gives_the_tone_at_the_new_rate(rate):
    """Use a tone below 0.43 of the lower rate; 1e-3 of its size is -60 dB."""
    hertz = 0.4 * min(rate, 16000) / 2
    found = resample(tone(hertz, rate), rate, 16000)
    assert len(found) == 16000
    assert np.abs(found - tone(hertz, 16000))[500:-500].max() < 5e-4


def test_resampling_leaves_nothing_of_what_the_new_rate_cannot_hold():
    assert np.abs(resample(tone(9000, 48000), 48000, 16000))[500:-500].max() < 1e-5


def test_equal_rates_and_a_single_sample_stay():
    samples = tone(440)
    assert resample(samples, RATE, RATE) is samples
    assert len(resample(samples[:1], 48000, 16000)) == 1


@pytest.mark.parametrize("rate", [RATE, 16000, 48000])
def test_blocks_joined_are_the_whole_resampled(recording, rate, monkeypatch):
    monkeypatch.setattr(audio_file, "BLOCK_SAMPLES", 3000)
    path, _ = recording("pcm16.wav")
    blocks = list(stream_blocks(path, sample_rate_hz=rate, seconds=0.3))
    assert [len(block) for block in blocks[:3]] == [round(0.3 * rate)] * 3 and 0 < len(blocks[3]) < len(blocks[0])
    np.testing.assert_allclose(np.concatenate(blocks), resample(*read_audio(path), rate), atol=1e-6)


def test_a_long_recording_streams_in_bounded_memory(tmp_path):
    """Twenty minutes are 77 MB as floats."""
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 16000, 1) as file:
        for _ in range(20):
            file.write(tone(440, 16000, 60))
    tracemalloc.start()
    total = sum(len(block) for block in stream_blocks(tmp_path / "long.wav", sample_rate_hz=8000, seconds=10.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 20 * 60 * 8000 and peak < 20e6


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, -128, 127], dtype=np.int8), [0, -1, 127 / 128]),
        (np.array([128, 0, 255], dtype=np.uint8), [0, -1, 127 / 128]),
        (np.array([0, -(2**15), 2**14], dtype=np.int16), [0, -1, 0.5]),
        (np.array([0, -(2**31), 2**30], dtype=np.int32), [0, -1, 0.5]),
        (np.array([0.25, -1.0]), [0.25, -1]),
        (np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]]), [0.5, 0.5, 0.5]),
        (np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]]).T, [0.5, 0.5, 0.5]),
    ],
)
def test_arrays_of_every_type_become_one_channel_of_floats(values, expected):
    found = to_mono(values)
    assert found.dtype == np.float32 and np.allclose(found, expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.zeros(0), r"shape \[0\]"), (np.zeros((1, 2, 3)), r"shape \[1, 2, 3\]"), (np.zeros(3, dtype=np.int64), "int64")],
)
def test_arrays_that_are_no_samples_are_refused(values, words):
    with pytest.raises(DataError, match=words):
        to_mono(values)


@pytest.mark.parametrize("rate", [0, -1, 16, 44.1, "16000", None, True, 10**7])
def test_sample_rates_that_cannot_be_are_refused(rate):
    with pytest.raises(DataError, match="sample rate"):
        checked_rate(rate)

"""Recordings as they come: headers with wrong sizes, joined files, cancelling channels, several tracks, containers of every kind."""

import io
import logging
import struct

import numpy as np
import pytest
import soundfile

from zoo.errors import DataError
from zoo.processors.media.audio_file import Track, read_audio, read_piece, stream_blocks
from zoo.processors.media.sound_faults import say_once
from zoo.processors.media.sound_kinds import is_sound, looks_like_sound

RATE = 16000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


@pytest.fixture(autouse=True)
def _say_again():
    say_once.cache_clear()


def encoded(kind="WAV", samples=TONE, rate=RATE, **keywords):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **keywords)
    return file.getvalue()


def wav(*, riff, data):
    """Return a WAV file whose header states other sizes."""
    whole = encoded()
    place = whole.index(b"data")
    return whole[:4] + struct.pack("<I", riff) + whole[8 : place + 4] + struct.pack("<I", data) + whole[place + 8 :]


SLOPPY = {
    "placeholder of two billion": wav(riff=2_000_000_036, data=2_000_000_000),
    "zeros": wav(riff=0, data=0),
    "zero data alone": wav(riff=36, data=0),
    "all ones": wav(riff=2**32 - 1, data=2**32 - 1),
    "largest signed": wav(riff=2**31 - 1, data=2**31 - 1 - 36),
    "the size of the whole file": wav(riff=2 * RATE + 44, data=2 * RATE + 44),
    "a few bytes too many": wav(riff=2 * RATE + 43, data=2 * RATE + 7),
    "RF64 without sizes": (rf64 := encoded("RF64"))[:20] + bytes(24) + rf64[44:],
}


@pytest.mark.parametrize("case", SLOPPY)
def test_a_wav_with_wrong_sizes_is_read_up_to_its_end_and_that_is_said_once(case, caplog, tmp_path):
    (tmp_path / "a.wav").write_bytes(SLOPPY[case])
    with caplog.at_level(logging.WARNING, logger="zoo"):
        for _ in range(2):
            np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], TONE, atol=2**-15)
    assert len(caplog.messages) == 1 and "a.wav: its header states" in caplog.text
    piece, _ = read_piece(tmp_path / "a.wav", 0.5, 0.25)
    np.testing.assert_allclose(piece, TONE[8000:12000], atol=2**-15)


@pytest.mark.parametrize("stated", [4 * RATE, 2 * RATE + 200, 100 * RATE])
def test_a_wav_that_lacks_a_real_part_stays_refused(stated):
    cut = wav(riff=stated + 36, data=stated)
    with pytest.raises(DataError, match=f"cut short: its header states {stated} bytes of audio, the file holds 32000"):
        read_audio(cut)


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "W64", "RF64"])
def test_half_a_file_of_other_kinds_is_refused_too(kind):
    whole = encoded(kind)
    with pytest.raises(DataError, match="cut short"):
        read_audio(whole[: len(whole) // 2])


@pytest.mark.parametrize("padding", [b"", b"\0"])
def test_a_chunk_of_odd_length_may_lack_its_padding(padding):
    whole = encoded()
    odd = whole[:12] + b"LIST" + struct.pack("<I", 5) + b"INFOx" + padding + whole[12:]
    np.testing.assert_allclose(read_audio(odd)[0], TONE, atol=2**-15)


@pytest.mark.parametrize("change", [{"kind": "WAVEX"}, {"endian": "BIG"}, {"kind": "RF64"}, {"kind": "W64"}, {"subtype": "FLOAT"}])
def test_other_forms_of_wav_are_read(change):
    np.testing.assert_allclose(read_audio(encoded(**change))[0], TONE, atol=2**-15)
    if change == {"kind": "RF64"}:
        np.testing.assert_allclose(read_audio(b"BW64" + encoded("RF64")[4:])[0], TONE, atol=2**-15)


def test_an_empty_wav_with_chunks_behind_holds_no_sound():
    empty = encoded(samples=TONE[:0])
    with pytest.raises(DataError, match="holds no sound"):
        read_audio(empty + b"LIST" + struct.pack("<I", 4) + b"INFO")


@pytest.mark.parametrize("kind", ["MP3", "OGG", "FLAC", "WAV", "AIFF"])
def test_joined_files_are_read_whole(kind, tmp_path):
    other = 0.5 * TONE[:8000]
    (tmp_path / "joined").write_bytes(encoded(kind) + encoded(kind, other) + encoded(kind))
    found, rate = read_audio(tmp_path / "joined")
    alone = [read_audio(encoded(kind))[0], read_audio(encoded(kind, other))[0]]
    assert rate == RATE
    np.testing.assert_array_equal(found, np.concatenate([*alone, alone[0]]))
    np.testing.assert_array_equal(np.concatenate(list(stream_blocks(tmp_path / "joined", sample_rate_hz=RATE, seconds=0.4))), found)


def test_joined_files_of_other_rates_and_channels_get_the_rate_of_the_first():
    found, rate = read_audio(encoded("MP3") + encoded("MP3", np.stack([TONE[::2]] * 2, 1), 8000))
    assert rate == RATE and abs(len(found) - 2 * RATE) < 1200
    assert np.abs(found[20000:28000]).max() == pytest.approx(0.5, abs=0.05)


def without_table(path):
    """Write an MP3 without the table that states its length."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as container:
        add_tracks(av, container, [TONE], "libmp3lame")
    return path.read_bytes()


def test_joined_mp3s_may_lack_the_table_of_their_length(tmp_path):
    plain = without_table(tmp_path / "plain.mp3")
    alone = [len(read_audio(data)[0]) for data in (plain, encoded("MP3"))]
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    for data in (plain + encoded("MP3"), encoded("MP3") + plain, tag + encoded("MP3") + tag + plain, tag + plain + tag + encoded("MP3")):
        assert abs(len(read_audio(data)[0]) - sum(alone)) <= 1152  # a frame


@pytest.mark.parametrize("factor", [-1.0, -0.9])
def test_of_channels_that_cancel_each_other_out_the_louder_is_used(factor, caplog):
    with caplog.at_level(logging.WARNING, logger="zoo"):
        found, _ = read_audio(encoded(samples=np.stack([TONE, factor * TONE], 1), subtype="FLOAT"))
    np.testing.assert_array_equal(found, TONE)
    assert "its channels cancel each other out" in caplog.text


def test_channels_that_do_not_cancel_are_averaged(caplog):
    noise = np.random.default_rng(0).standard_normal((RATE, 2)).astype(np.float32) * 0.1
    for channels in (noise, np.stack([TONE, 0 * TONE], 1), np.stack([TONE, -0.5 * TONE], 1), np.stack([TONE] + [0 * TONE] * 7, 1)):
        np.testing.assert_allclose(read_audio(encoded(samples=channels, subtype="FLOAT"))[0], channels.mean(1), atol=1e-7)
    assert not caplog.messages


def add_tracks(av, container, tracks, codec, rate=RATE):
    streams = [container.add_stream(codec, rate=rate, layout="mono") for _ in tracks]  # all before the first packet
    for stream, samples in zip(streams, tracks, strict=True):
        change, size = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate), stream.frame_size or 1024
        for start in range(0, len(samples), size):
            frame = av.AudioFrame.from_ndarray((samples[start : start + size] * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            for plane in change.resample(frame):
                container.mux(stream.encode(plane))
        container.mux(stream.encode(None))


def film(path, *tracks, kind="matroska", codec="flac", rate=RATE):
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=kind) as container:
        add_tracks(av, container, tracks, codec, rate)
    return path


KINDS = {
    **{"mkv": ("matroska", "aac"), "mka": ("matroska", "flac"), "mov": ("mov", "aac"), "mp4": ("mp4", "aac"), "3gp": ("3gp", "aac")},
    **{"m4b": ("ipod", "aac"), "avi": ("avi", "mp2"), "aac": ("adts", "aac"), "wma": ("asf", "mp2"), "aiff": ("aiff", "pcm_s16be")},
    **{"au": ("au", "pcm_s16be"), "caf": ("caf", "pcm_s16be"), "w64": ("w64", "pcm_s16le"), "amr": ("amr", "libopencore_amrnb")},
    **{"webm": ("webm", "libopus"), "opus": ("opus", "libopus")},
}
RATES = {"amr": 8000, "webm": 48000, "opus": 48000}


@pytest.mark.parametrize("suffix", KINDS)
def test_containers_are_known_by_their_content_whatever_their_name_is(suffix, tmp_path):
    kind, codec = KINDS[suffix]
    rate = RATES.get(suffix, RATE)
    samples = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    path = film(tmp_path / "unnamed", samples, kind=kind, codec=codec, rate=rate)
    assert looks_like_sound(path) and looks_like_sound(tmp_path / f"missing.{suffix}")
    for source in (path, path.read_bytes()):
        found, own = read_audio(source)
        assert own == rate and abs(len(found) / rate - 1) < 0.1
        spectrum = np.abs(np.fft.rfft(found[rate // 10 : rate // 2]))
        assert abs(spectrum.argmax() / 0.4 - 440) < 4


def test_files_that_are_no_sound_are_known_as_well(tmp_path):
    for head in (b"RIFF\0\0\0\0WEBP", b"\0\0\0\x18ftypheic", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4", b"\xff\xd8\xff\xe0", b"text", b""):
        assert not is_sound(head)
    assert not looks_like_sound(tmp_path)


def test_a_silent_first_track_is_told_and_another_can_be_chosen(tmp_path, caplog):
    path = film(tmp_path / "a.mkv", 0 * TONE, TONE)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        assert not read_audio(path)[0].any()
    assert "has 2 sound tracks, and the first is silent" in caplog.text and "--track 2" in caplog.text
    np.testing.assert_allclose(read_audio(Track(path, 2))[0], TONE, atol=2**-14)
    with pytest.raises(DataError, match="has no sound track 3; allowed are 1 to 2"):
        read_audio(Track(path, 3))
    with pytest.raises(DataError, match="has no sound track 2; it has 1"):
        read_audio(Track(encoded(), 2))


def test_several_tracks_are_named_even_if_the_first_has_sound(tmp_path, caplog):
    path = film(tmp_path / "a.mkv", TONE, 0.5 * TONE)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        np.testing.assert_allclose(read_audio(path)[0], TONE, atol=2**-14)
    assert "has 2 sound tracks; the first is read" in caplog.text

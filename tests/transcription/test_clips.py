"""Clips of a recording: long pauses left out, pieces cut at pauses."""

import pytest

from zoo.language.transcription.clips import Clip, cut_at_pauses, spoken_clips


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], []),
        ([(1.0, 2.0)], [(0, 300)]),  # pauses under 2 s stay, at the edges too
        ([(0.5, 2.0), (3.9, 5.0)], [(0, 600)]),
        ([(0.5, 2.0), (4.0, 5.0)], [(0, 240), (360, 600)]),  # 0.4 s stay beside speech
        ([(3.0, 4.0)], [(260, 440)]),
    ],
)
def test_long_pauses_are_left_out(spans, expected):
    frames = expected[-1][1] if expected and expected[-1][1] in (300, 600) else 900
    assert spoken_clips(spans, frames) == [Clip(*pair) for pair in expected]


def test_pieces_end_in_the_longest_pause_of_their_second_half():
    spans = [(0.0, 5.0), (7.0, 16.0), (16.2, 20.0), (20.5, 25.0), (25.1, 55.0)]  # the pause of 2 s comes too early
    assert cut_at_pauses([Clip(0, 5500)], spans, longest=3000) == [Clip(0, 2025), Clip(2025, 2505), Clip(2505, 5500)]


def test_speech_without_a_pause_is_never_cut():
    spans = [(0.0, 3.0), (3.5, 40.0), (40.2, 70.0)]
    assert cut_at_pauses([Clip(0, 7000)], spans, longest=3000) == [Clip(0, 325), Clip(325, 4010), Clip(4010, 7000)]
    assert cut_at_pauses([Clip(0, 7000)], [(0.0, 70.0)], longest=3000) == [Clip(0, 7000)]
    assert cut_at_pauses([Clip(0, 2000), Clip(2500, 5500)], spans, longest=3000) == [Clip(0, 2000), Clip(2500, 5500)]

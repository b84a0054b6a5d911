"""Positions on three axes, their marks in input vectors and in the cache, and DeepStack."""

import pytest
import torch

from zoo.errors import ConfigError, DataError
from zoo.layers.packing import Packing
from zoo.layers.picture_positions import picture_marks, picture_positions
from zoo.layers.rope import Rotary
from zoo.registry.construct import build_part

SECTIONS = {"vocab_size": 40, "context_length": 64, "dim": 24, "depth": 3, "num_heads": 2, "hidden_dim": 24, "rope_sections": [2, 2, 2]}


def marks(*grids, before=3, behind=3):
    """Marks of words, pictures and a word between two pictures."""
    words = [torch.zeros(n, dtype=torch.int64) for n in (before, *[1] * (len(grids) - 1), behind)]
    pictures = picture_marks(torch.tensor(grids), torch.device("cpu"))
    parts = [part for pair in zip(words, [*pictures, words[-1]], strict=False) for part in pair]
    return torch.cat(parts[: 2 * len(grids)] + [words[-1]])


def test_a_picture_among_words_has_the_recorded_positions():
    found, ends = picture_positions(marks((2, 3))[None])
    assert found[:, 0].tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7, 8],
        [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8],
        [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8],
    ]
    assert ends.tolist() == [9]


def test_frequencies_turn_by_the_recorded_axes():
    places = torch.tensor([1, 2, 3])[:, None]
    for settings, expected in (
        ({"theta": 1e6}, [1, 0.1, 0.02, 0.002, 0.0003, 0.00003]),
        ({"theta": 5e6, "interleaved": True}, [1, 0.15294, 0.01754, 0.00045, 0.00007, 0.00001]),
    ):
        cos, sin = Rotary(head_dim=12, sections=[2, 2, 2], **settings).tables(places)
        assert torch.atan2(sin, cos)[0].tolist() == pytest.approx(expected, abs=5e-6)
    assert Rotary(head_dim=128, sections=[24, 20, 20], interleaved=True).axes == [0, 1, 2] * 20 + [0] * 4


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rope_sections": [2, 2, 1]}, r"rope_sections: got \[2, 2, 1\]; allowed are three numbers that add up to the 6"),
        ({"rope_sections": [1, 2, 3], "rope_interleaved": True}, "cannot take turns"),
        ({"positions": "learned"}, "not possible with positions 'learned'"),
        ({"deepstack": 4}, "deepstack: got 4; allowed is a whole number of layers from 0 to depth 3"),
        (
            {"rope_scaling": {"kind": "dynamic", "factor": 2.0, "original_context_length": 8}},
            "not possible with rope_scaling.kind 'dynamic'",
        ),
    ],
)
def test_sections_that_do_not_fit_are_refused(keywords, message):
    with pytest.raises(ConfigError, match=message):
        build(**keywords)


def build(**keywords):
    torch.manual_seed(0)
    return build_part("language", {"name": "causal_lm", **SECTIONS, **keywords}, "language").eval()


def prompts(model, *grids):
    """Input vectors of a row: random words and pictures, with their marks and the further vectors of the pictures."""
    row = marks(*grids) if grids else torch.zeros(7, dtype=torch.int64)
    vectors = torch.randn(len(row), model.input_dim)
    vectors[row == 0, model.dim :] = 0
    vectors[:, -1] = row
    return vectors


@torch.no_grad()
def test_text_alone_is_the_model_without_sections():
    model, plain = build(), build(rope_sections=None)
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(0, 40, (3, 9))
    assert torch.equal(model(ids), plain(ids)) and torch.equal(model(model.embed(ids)), plain(ids))
    positions = torch.arange(9).expand(3, -1) + 5
    assert torch.equal(model(ids, positions=positions), plain(ids, positions=positions))


@torch.no_grad()
@pytest.mark.parametrize("deepstack", [0, 2])
def test_padded_packed_and_cached_rows_give_what_they_give_alone(deepstack):
    model = build(deepstack=deepstack, rope_interleaved=bool(deepstack))
    rows = [prompts(model, (2, 3)), prompts(model, (1, 2), (3, 2)), prompts(model)]
    alone = [model(row[None])[0] for row in rows]
    for side in ("left", "right"):
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
        real = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True, padding_side=side).bool()
        torch.testing.assert_close(model(padded, real)[real], torch.cat(alone), rtol=0, atol=1e-5)
        more, cache = torch.randint(0, 40, (3, 3)), model.new_cache(3, padded.shape[1] + 3)
        model(padded, real, cache=cache)
        cache.select(torch.tensor([2, 0, 1]))
        after = torch.cat([model(more[:, :1], cache=cache), model(more[:, 1:], cache=cache)], dim=1)
        for place, row in enumerate((2, 0, 1)):
            whole = torch.cat([rows[row], model.embed(more[place])])
            torch.testing.assert_close(after[place], model(whole[None])[0, -3:], rtol=0, atol=1e-5)
    packing = Packing(real, causal=True)
    found = packing.unpack(model(packing.pack(padded), layout=packing))
    torch.testing.assert_close(found[real], torch.cat(alone), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_cache_that_was_cropped_inside_a_picture_continues_it():
    model = build(deepstack=1)
    row = prompts(model, (2, 3), (2, 2))
    expected, cache = model(row[None]), model.new_cache(1, 4)
    for length in (5, 3, 13, 0):  # inside the first picture, before it, inside the second one, and none of it
        cache.reserve(len(row))
        model(row[None, cache.length :], cache=cache)
        cache.crop(length)
        found = model(row[None, length:], cache=cache)
        torch.testing.assert_close(found, expected[:, length:], rtol=0, atol=1e-5)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(DataError, match="input vectors have 30 channels; the language model takes 24 or input_dim 25"):
        build()(torch.zeros(1, 3, 30))

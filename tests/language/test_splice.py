"""Features at placeholders: in order, with gradients, and counted."""

import pytest
import torch

from zoo.errors import DataError
from zoo.layers.splice import splice

IMAGE, AUDIO = -200, -201
IDS = ["a.json:1", "a.json:2", "a.json:3"]


def features(counts, width, dim=4):
    """Items of ``width`` tokens, of which the first so many are real."""
    mask = torch.arange(width) < torch.tensor(counts).view(-1, 1)
    return torch.randn(len(counts), width, dim), mask


def rows(*texts):
    """``"12 i i 7 ."`` to ids: i is a token of an image, a of audio, the rest are numbers."""
    words = {"i": IMAGE, "a": AUDIO}
    return torch.tensor([[words.get(word) or int(word) for word in text.split()] for text in texts])


def test_features_stand_where_their_placeholders_are_as_a_loop_puts_them():
    token_ids = rows("5 i i i 6 7 i i i", "1 2 3 4 a a i i i", "1 2 3 4 5 6 7 a 9")
    vectors = torch.randn(3, 9, 4)
    images, clips = features([3, 3, 3], 3), features([2, 1], 4)
    expected = vectors.clone()
    for placeholder, (tokens, mask) in ((IMAGE, images), (AUDIO, clips)):
        real = iter([token for item, seen in zip(tokens, mask, strict=True) for token, one in zip(item, seen, strict=True) if one])
        for row in range(3):
            for place in range(9):
                if token_ids[row, place] == placeholder:
                    expected[row, place] = next(real)
    found = splice(token_ids, vectors, {"image": images, "audio": clips})
    assert torch.equal(found, expected)


def test_gradients_reach_vectors_and_features_and_nothing_beside_them():
    token_ids, vectors = rows("5 i i 6"), torch.randn(1, 4, 4, requires_grad=True)
    tokens, mask = torch.randn(1, 3, 4, requires_grad=True), torch.tensor([[True, True, False]])
    weight = torch.randn(1, 4, 4)
    (splice(token_ids, vectors, {"image": (tokens, mask)}) * weight).sum().backward()
    assert torch.equal(tokens.grad[0, :2], weight[0, 1:3]) and not tokens.grad[0, 2].any()
    assert torch.equal(vectors.grad[0, [0, 3]], weight[0, [0, 3]]) and not vectors.grad[0, 1:3].any()


def test_no_items_leave_the_vectors_and_still_reach_the_features():
    tokens = torch.zeros(0, 3, 4, requires_grad=True)
    vectors = torch.randn(1, 3, 4)
    found = splice(rows("1 2 3"), vectors, {"image": (tokens, torch.ones(0, 3, dtype=torch.bool))})
    assert torch.equal(found, vectors)
    found.sum().backward()
    assert tokens.grad is not None


@pytest.mark.parametrize(
    ("texts", "counts", "message"),
    [
        (
            ("i i i 4", "i i 3 4", "i i i 4"),
            [3, 3, 3],
            r"conversation 1 \(a.json:2\) has 2 placeholders of image, but .* have \[3, 3\] tokens",
        ),
        (
            ("i i i i", "1 2 3 4", "i i i 4"),
            [3, 3],
            r"conversation 0 \(a.json:1\) has 4 placeholders of image, but .* have \[3, 3\] tokens",
        ),
        (("i i i 4", "1 2 3 4", "i i i 4"), [3, 3, 3], r"conversation 2 .* has 3 placeholders of image, .* \(9 tokens and 6 placeholders"),
        (("i i i 4", "1 2 3 4", "i i i 4"), [3], r"conversation 2 \(a.json:3\) has 3 placeholders of image, but .* have \[\] tokens"),
        (("1 2 3 4", "1 2 3 4", "1 2 3 4"), [3], r"conversation 2 .* has 0 placeholders of image, .* \(3 tokens and 0 placeholders"),
    ],
)
def test_other_numbers_are_refused_with_conversation_and_both_numbers(texts, counts, message):
    with pytest.raises(DataError, match=message):
        splice(rows(*texts), torch.zeros(3, 4, 4), {"image": features(counts, 3)}, IDS)


def test_placeholders_of_a_modality_without_encoder_are_refused():
    with pytest.raises(DataError, match=r"conversation 1 has 2 placeholders of audio, but .*encoder@system.encoders.audio=NAME"):
        splice(rows("1 2 3", "1 a a"), torch.zeros(2, 3, 4), {})

"""What must hold of the text transformer beside equality with its references (tests/convert)."""

import pytest
import torch

import zoo

IDS = torch.tensor([[1, 10, 11, 12, 2]])


@pytest.mark.parametrize("name", ["text_nano", "text_bidirectional_nano"])
def test_padding_does_not_change_the_pooled_vector(name):
    model = zoo.create_model(name)
    padded = torch.cat([IDS, torch.zeros(1, 4, dtype=torch.int64)], dim=1)
    mask = torch.arange(9)[None] < 5
    torch.testing.assert_close(model(padded, mask).pooled, model(IDS, mask[:, :5]).pooled, rtol=1e-5, atol=1e-5)


def test_a_causal_tower_does_not_look_right():
    model = zoo.create_model("text_nano")
    changed = IDS.clone()
    changed[0, 3] = 99
    ours, theirs = model(IDS).tokens, model(changed).tokens
    assert torch.equal(ours[:, :3], theirs[:, :3]) and not torch.allclose(ours[:, 3], theirs[:, 3])


def test_eot_pooling_takes_the_first_end_symbol():
    model = zoo.create_model("text_nano")
    twice = torch.tensor([[1, 10, 2, 11, 2]])
    encoded = model(twice)
    assert torch.equal(encoded.pooled, encoded.tokens[:, 2])


def test_an_empty_row_gives_no_nan():
    encoded = zoo.create_model("text_bidirectional_nano")(IDS, torch.zeros(1, 5, dtype=torch.bool))
    assert torch.isfinite(encoded.tokens).all() and torch.isfinite(encoded.pooled).all()


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(zoo.DataError, match="33 tokens; context_length allows 32"):
        zoo.create_model("text_nano")(torch.zeros(1, 33, dtype=torch.int64))


def test_an_end_symbol_outside_the_vocabulary_is_refused():
    with pytest.raises(zoo.ConfigError, match="eot_token_id: 512 is outside the vocabulary"):
        zoo.create_model("text_nano", eot_token_id=512)

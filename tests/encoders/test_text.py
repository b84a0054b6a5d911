"""Invariants of the text transformer; equality with its references is tested in tests/convert."""

import pytest
import torch

import zoo
from zoo.encoders.text import TextTransformer

IDS = torch.tensor([[1, 10, 11, 12, 2]])
EOT = 39
# Ends at the front, in the middle, twice, at the back and nowhere; equal rows; one that begins as another does. Noise stands behind ends.
MIXED = torch.tensor(
    [
        [1, 4, 5, EOT, 7, 8, 9],
        [1, EOT, 3, 3, 3, 3, EOT],
        [1, 4, 5, 6, 7, 8, EOT],
        [1, 4, 5, EOT, 2, 2, 2],
        [EOT, 4, 5, 6, 7, 8, 9],
        [1, 4, 5, 6, 7, 8, 9],
    ]
)
MASKS = {
    "no mask": None,
    "padding behind": torch.arange(7) < torch.tensor([4, 2, 7, 4, 1, 7])[:, None],
    "padding before": torch.arange(7) >= torch.tensor([0, 1, 3, 2, 0, 6])[:, None],
    "holes": torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool().expand(6, 7),
    "an empty row": torch.arange(7) < torch.tensor([4, 2, 7, 0, 1, 7])[:, None],
}


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


def odd_tower(scramble, causal, pool):
    """Three layers, five heads of width 3."""
    sizes = {"vocab_size": EOT + 1, "context_length": 9, "dim": 15, "depth": 3, "num_heads": 5, "eot_token_id": EOT}
    return scramble(TextTransformer(causal=causal, pool=pool, **sizes))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pool", ["eot", "argmax", "cls", "mean", "last"])
@pytest.mark.parametrize("mask", MASKS)
def test_vectors_pooled_alone_and_their_gradients_are_those_of_the_padded_batch(causal, pool, mask, scramble):
    model = odd_tower(scramble, causal, pool)
    whole, alone = model(MIXED, MASKS[mask]), model(MIXED, MASKS[mask], reads="pooled")
    with torch.no_grad():  # a causal tower then shares what texts begin with
        shared = model(MIXED, MASKS[mask], reads="pooled").pooled
    for found in (alone.pooled, shared):
        torch.testing.assert_close(found, whole.pooled, rtol=1e-5, atol=1e-5)
    assert alone.tokens.shape == (6, 1, 15) and alone.mask.shape == (6, 1)
    losses = [found.pooled.square().sum() for found in (alone, whole)]
    gradients = [torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True) for loss in losses]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * (1 + theirs.abs().max())


@pytest.mark.parametrize("causal, grad, rows", [(True, True, 25), (True, False, 10), (False, True, 42)])
def test_neither_padding_nor_what_follows_the_end_is_computed(causal, grad, rows, scramble):
    """Up to their ends the six rows have 4 + 2 + 7 + 4 + 1 + 7 = 25 tokens, and 10 different beginnings."""
    model, seen = odd_tower(scramble, causal, "eot"), []
    for block in model.blocks:
        block.mlp.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    ids = MIXED.clone()
    ids[5, 6] = EOT
    with torch.set_grad_enabled(grad):
        model(ids, reads="pooled")
    assert seen == [rows, rows, 6]  # the last block answers for the pooled tokens alone


def test_packed_rows_train_in_bfloat16(scramble):
    model = odd_tower(scramble, True, "eot").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, alone = model(MIXED).pooled, model(MIXED, reads="pooled").pooled
    alone.float().square().sum().backward()
    assert (alone - whole).abs().max() < 0.1 * whole.abs().max()  # eight bits of mantissa
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_shapes_are_known_without_data():
    model = zoo.create_model("text_nano", device="meta")
    assert model(torch.empty(4, 9, dtype=torch.int64, device="meta"), reads="pooled").pooled.shape == (4, 64)

"""Invariants of the decoder: parameter counts, causality, padding, cache and packing; against transformers: tests/convert."""

import pytest
import torch

import zoo
from zoo.language.causal_lm import CausalLM
from zoo.layers.packing import Packing
from zoo.layers.rope import Rotary, rotate

COUNTS = {  # computed with transformers' classes on the meta device (the spec sheet's figures)
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "llama_7b": 6_738_415_616,
    "llama_13b": 13_015_864_320,
    "llama_33b": 32_528_943_616,
    "llama_65b": 65_285_660_672,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "vicuna_7b": 6_738_415_616,
    "vicuna_13b": 13_015_864_320,
    "tinyllama_1_1b": 1_100_048_384,
    "mistral_7b": 7_241_732_096,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm2_1_7b": 1_711_376_384,
}
SHAPE = {"vocab_size": 61, "context_length": 40, "depth": 2}
FORMS = {
    "grouped": {**SHAPE, "dim": 60, "num_heads": 15, "num_kv_heads": 5, "head_dim": 8},
    "one key head": {**SHAPE, "dim": 48, "num_heads": 3, "num_kv_heads": 1, "tied": True},
    "window": {**SHAPE, "dim": 48, "num_heads": 6, "num_kv_heads": 3, "window": 5},
    "norms after": {
        **SHAPE,
        "dim": 48,
        "num_heads": 3,
        "norm": "layer",
        "norm_place": "after",
        "positions": "learned",
        "activation": "gelu_tanh",
        "bias": True,
        "tied": True,
    },
    "gpt": {
        **SHAPE,
        "dim": 48,
        "num_heads": 3,
        "norm": "layer",
        "positions": "learned",
        "activation": "gelu_tanh",
        "bias": True,
        "tied": True,
    },
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)
LENGTHS = [17, 9, 1, 12]  # of texts in a batch


@pytest.fixture
def model(form, scramble):
    return scramble(CausalLM(**FORMS[form]))


@pytest.fixture
def texts():
    return [torch.randint(0, 61, (length,)) for length in LENGTHS]


def padded(texts, side):
    """Token ids with random padding, which nothing may depend on, and the mask."""
    longest = max(map(len, texts))
    ids, mask = torch.randint(0, 61, (len(texts), longest)), torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        place = slice(longest - len(text), longest) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = text, True
    return ids, mask


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_the_sheet_says(name):
    assert sum(parameter.numel() for parameter in zoo.create_model(name, device="meta").parameters()) == COUNTS[name]


@EVERY_FORM
@torch.no_grad()
def test_no_token_sees_what_comes_after_it(model):
    ids = torch.randint(0, 60, (2, 20))
    changed = ids.clone()
    changed[:, 11] += 1
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :11], after[:, :11]) and not torch.allclose(before[:, 11:], after[:, 11:], atol=1e-3)


@pytest.mark.parametrize("form", ["window"])
@torch.no_grad()
def test_a_window_ends_what_is_seen(model):
    ids = torch.randint(0, 60, (1, 20))
    changed = ids.clone()
    changed[:, 3] += 1
    before, after = model(ids), model(changed)
    reach = 3 + 2 * (5 - 1)  # each of two layers looks four tokens back
    assert torch.equal(before[:, reach + 1 :], after[:, reach + 1 :])
    assert not torch.equal(before[:, reach], after[:, reach])


@EVERY_FORM
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(model, texts, side):
    ids, mask = padded(texts, side)
    together = model(ids, mask)
    for row, text in enumerate(texts):
        close(together[row][mask[row]], model(text[None])[0])


@EVERY_FORM
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_cache_gives_what_computing_everything_gives(model, texts, side):
    (ids, mask), more = padded(texts, side), torch.randint(0, 61, (len(texts), 7))
    cache = model.new_cache(len(texts), 30)
    first = model(ids, mask, cache=cache)
    single = [model(more[:, i : i + 1], cache=cache) for i in range(4)]
    last = model(more[:, 4:], cache=cache)  # several at once
    assert cache.length == ids.shape[1] + 7 and cache.mask.sum(1).tolist() == [length + 7 for length in LENGTHS]
    for row, text in enumerate(texts):
        whole = model(torch.cat([text, more[row]])[None])[0]
        close(torch.cat([first[row][mask[row]], *(step[row] for step in single), last[row]]), whole)


@EVERY_FORM
@torch.no_grad()
def test_a_cache_without_padding_gives_what_computing_everything_gives(model):
    ids = torch.randint(0, 61, (2, 20))
    cache = model.new_cache(2, 20)
    steps = [
        model(ids[:, :3], cache=cache),
        *(model(ids[:, i : i + 1], cache=cache) for i in range(3, 17)),
        model(ids[:, 17:], cache=cache),
    ]
    close(torch.cat(steps, dim=1), model(ids))
    with pytest.raises(zoo.DataError, match=r"room for 20 tokens per row, but needs 21"):
        model(ids[:, :1], cache=cache)


@EVERY_FORM
@torch.no_grad()
def test_rows_and_lengths_of_a_cache_are_chosen(model, texts):
    ids, mask = padded(texts, "left")
    cache = model.new_cache(len(texts), 30)
    model(ids, mask, cache=cache)
    model(torch.randint(0, 61, (len(texts), 3)), cache=cache)
    cache.crop(ids.shape[1]).select(torch.tensor([3, 0, 3])).reserve(33)
    more = torch.randint(0, 61, (3, 5))
    found = model(more, cache=cache)
    for row, text in enumerate([texts[3], texts[0], texts[3]]):
        close(found[row], model(torch.cat([text, more[row]])[None])[0, -5:])
    assert cache.room == 33 and cache.batch_size == 3
    with pytest.raises(zoo.DataError, match="cannot keep the first 23"):
        cache.crop(23)


@EVERY_FORM
@torch.no_grad()
def test_a_packed_list_gives_what_the_padded_batch_gives(model, texts):
    ids, mask = padded(texts, "right")
    packing = Packing(mask, causal=True)
    expected = model(ids, mask)[mask]
    close(packing.unpack(model(ids.flatten()[packing.index], layout=packing))[mask], expected)
    vectors = packing.pack(model.embed(ids))
    close(packing.unpack(model(vectors, layout=packing))[mask], expected)


@EVERY_FORM
def test_gradients_of_a_packed_list_are_those_of_the_padded_batch(form, texts, scramble):
    model = scramble(CausalLM(**FORMS[form]))
    ids, mask = padded(texts, "right")
    packing = Packing(mask, causal=True)

    def gradients(hidden):
        model.zero_grad()
        model.logits(hidden[mask]).square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected = gradients(model(ids, mask))
    found = gradients(packing.unpack(model(ids.flatten()[packing.index], layout=packing)))
    for one, other in zip(found, expected, strict=True):
        close(one, other)


@torch.no_grad()
def test_vectors_may_stand_for_ids_and_negative_ids_are_zeros(scramble):
    model, ids = scramble(zoo.create_model("llama_nano")), torch.randint(0, 512, (2, 9))
    torch.testing.assert_close(model(model.embed(ids)), model(ids))
    ids[0, 3] = -200
    vectors = model.embed(ids)
    assert not vectors[0, 3].any() and vectors[0, 2].any()
    assert model.logits(model(vectors)[:, -1]).shape == (2, 512)


def test_rotary_scores_depend_on_distances_alone():
    rotary, q, k = Rotary(head_dim=16, theta=100.0), torch.randn(1, 1, 16), torch.randn(1, 1, 16)

    def score(i, j):
        turned = [rotate(x, *rotary.tables(torch.tensor([place]))) for x, place in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(5, 2), score(105, 102), atol=1e-5, rtol=0)
    assert (score(5, 2) - score(5, 4)).abs() > 1e-3


@torch.no_grad()
def test_positions_may_be_given(scramble):
    model, ids = scramble(CausalLM(**FORMS["gpt"])), torch.randint(0, 61, (1, 6))
    cache = model.new_cache(1, 12)
    model(ids, cache=cache)
    expected = model(ids, cache=cache)  # at positions 6 to 11
    again = model.new_cache(1, 12)
    model(ids, cache=again)
    torch.testing.assert_close(model(ids, positions=torch.arange(6, 12)[None], cache=again), expected)


@torch.no_grad()
def test_bfloat16_stays_near_float32(scramble):
    model, ids = scramble(CausalLM(**FORMS["grouped"]), std=0.05), torch.randint(0, 61, (2, 20))
    expected = model.logits(model(ids))
    half = model.to(torch.bfloat16)
    found = half.logits(half(ids))
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()  # eight bits of mantissa through two layers


@pytest.mark.parametrize("form", ["grouped", "gpt"])
def test_texts_that_are_too_long_are_refused(model):
    ids = torch.randint(0, 61, (2, 41))
    with pytest.raises(zoo.DataError, match="41 tokens; context_length allows 40"):
        model(ids)
    model(ids, torch.arange(41) < torch.tensor([[40], [3]]))  # what is padding does not count


MISTAKES = {
    "num_kv_heads: 2 does not divide num_heads 3": {"num_heads": 3, "num_kv_heads": 2},
    "num_heads: 5 does not divide dim 48": {"num_heads": 5},
    "positions: there is no 'rotory'": {"positions": "rotory"},
    "norm: there is no 'rmsnorm'": {"norm": "rmsnorm"},
    "activation: there is no 'swish'": {"activation": "swish"},
    "head_dim: 3 is odd": {"head_dim": 3},
    "window: got 0": {"window": 0},
    "there is no 'yarm'; did you mean 'yarn'": {"rope_scaling": {"kind": "yarm", "factor": 2.0}},
    "needs numbers above 0 for factor": {"rope_scaling": {"kind": "linear"}},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told(message):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.create_model("llama_nano", **{"dim": 48, "num_heads": 3, "num_kv_heads": 3, **MISTAKES[message]})


@EVERY_FORM
def test_it_learns_one_batch_by_heart(form):
    torch.manual_seed(1)
    model = CausalLM(**FORMS[form])
    ids = torch.randint(0, 61, (2, 12))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        scores = model.logits(model(ids[:, :-1]))
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


@torch.no_grad()
def test_gemmas_factor_is_rounded_to_the_type_of_the_weights():
    model, ids = CausalLM(**FORMS["one key head"], embed_scale=1536**0.5).bfloat16(), torch.tensor([[5, 9, 3]])
    assert torch.equal(model.embed(ids), model.embedding.weight[ids] * 39.25)  # the root is 39.19

"""The decoder of Kosmos by itself. Against transformers: tests/convert/test_transformers_kosmos2.py; xPos: tests/layers/test_xpos.py."""

import math

import pytest
import torch
from torch import nn

import zoo
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.language.magneto import Magneto, sub_norm_gain
from zoo.layers.packing import Packing

SHAPE = {"vocab_size": 61, "context_length": 40, "dim": 48, "depth": 2, "num_heads": 3}
FORMS = {
    "xpos": {**SHAPE, "xpos_scale": 8, "hidden_dim": 50},
    "sinusoids": {**SHAPE, "positions": "sinusoids", "tied": False, "embed_scale": 1.5},
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)
LENGTHS = [17, 9, 1, 12]  # of texts in a batch
COUNTS = {"kosmos_1_decoder": 1_340_180_480, "kosmos_2_decoder": 1_342_289_920}  # of the spec sheet


@pytest.fixture
def model(form, scramble):
    return scramble(Magneto(**FORMS[form]))


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
    model = zoo.create_model(name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]
    assert sum(parameter.numel() for parameter in model.blocks[0].parameters()) == 50_378_752


def test_gains_are_the_sheets():
    assert math.isclose(sub_norm_gain(12), 1.7827097, abs_tol=1e-6) and math.isclose(sub_norm_gain(24), 1.9675368, abs_tol=1e-6)


def test_xavier_has_the_papers_gain_where_it_belongs():
    block = Magneto(**{**SHAPE, "dim": 240, "depth": 12}).blocks[5]
    q, k, v = block.attention.qkv.weight.chunk(3)
    square, wide = (6 / (240 + 240)) ** 0.5, (6 / (240 + 960)) ** 0.5  # the ends of Xavier's uniform range
    gain = sub_norm_gain(12)
    ends = [(q, square), (k, square), (v, gain * square), (block.attention.out.weight, gain * square)]
    for matrix, end in [*ends, (block.mlp.fc1.weight, gain * wide), (block.mlp.fc2.weight, gain * wide)]:
        assert 0.99 * end < matrix.abs().max() <= end
    assert not block.mlp.fc1.bias.any() and not block.attention.qkv.bias.any()


def test_torchscales_form_scales_torchs_default_and_its_biases():
    block = Magneto(**{**SHAPE, "dim": 240, "depth": 12, "init": "torchscale"}).blocks[5]
    end, gain = 240**-0.5, sub_norm_gain(12)
    for tensor in (block.attention.qkv.weight, block.attention.qkv.bias):
        q, k, v = tensor.chunk(3)
        for part, scale in ((q, 1), (k, 1), (v, gain)):
            assert 0.97 * scale * end < part.abs().max() <= scale * end
    assert 0.97 * gain * end < block.mlp.fc1.bias.abs().max() <= gain * end


@EVERY_FORM
@torch.no_grad()
def test_no_token_sees_what_comes_after_it(model):
    ids = torch.randint(0, 60, (2, 20))
    changed = ids.clone()
    changed[:, 11] += 1
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :11], after[:, :11]) and not torch.allclose(before[:, 11:], after[:, 11:], atol=1e-3)


@EVERY_FORM
@torch.no_grad()
def test_order_is_seen(model):
    ids = torch.randint(0, 61, (1, 9))
    swapped = ids[:, [0, 2, 1, *range(3, 9)]]
    assert not torch.allclose(model(ids)[:, -1], model(swapped)[:, -1], atol=1e-3)


@EVERY_FORM
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_on_either_side_and_a_cache_change_nothing(model, texts, side):
    (ids, mask), more = padded(texts, side), torch.randint(0, 61, (len(texts), 7))
    cache = model.new_cache(len(texts), 30)
    first = model(ids, mask, cache=cache)
    single = [model(more[:, i : i + 1], cache=cache) for i in range(4)]
    last = model(more[:, 4:], cache=cache)  # several at once
    for row, text in enumerate(texts):
        whole = model(torch.cat([text, more[row]])[None])[0]
        close(torch.cat([first[row][mask[row]], *(step[row] for step in single), last[row]]), whole)


@torch.no_grad()
def test_a_cache_holds_at_the_end_of_a_long_context(scramble):
    """4,096 tokens with the paper's scale: the last of them, with keys in the cache from the first on."""
    model = scramble(Magneto(**{**SHAPE, "context_length": 4096, "dim": 24, "num_heads": 1}))
    ids = torch.randint(0, 61, (1, 4096))
    cache = model.new_cache(1, 4096)
    model(ids[:, :4090], cache=cache)
    close(model(ids[:, 4090:], cache=cache), model(ids)[:, -6:])


@EVERY_FORM
@torch.no_grad()
def test_rows_and_lengths_of_a_cache_are_chosen(model, texts):
    ids, mask = padded(texts, "left")
    cache = model.new_cache(len(texts), 30)
    model(ids, mask, cache=cache)
    cache.crop(ids.shape[1]).select(torch.tensor([3, 0, 3])).reserve(33)
    more = torch.randint(0, 61, (3, 5))
    found = model(more, cache=cache)
    for row, text in enumerate([texts[3], texts[0], texts[3]]):
        close(found[row], model(torch.cat([text, more[row]])[None])[0, -5:])


@EVERY_FORM
def test_a_packed_list_and_its_gradients_are_those_of_the_padded_batch(model, texts):
    ids, mask = padded(texts, "right")
    packing = Packing(mask, causal=True)

    def run(hidden):
        model.zero_grad()
        model.logits(hidden[mask]).square().mean().backward()
        return [hidden[mask].detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    expected = run(model(ids, mask))
    for one, other in zip(run(packing.unpack(model(ids.flatten()[packing.index], layout=packing))), expected, strict=True):
        close(one, other)
    vectors = packing.pack(model.embed(ids))
    close(packing.unpack(model(vectors, layout=packing))[mask], expected[0])


@EVERY_FORM
@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_in_a_batch_are_continued_as_they_are_alone(model, texts, beams):
    sampling = Sampling(max_new_tokens=6, num_beams=beams, temperature=0.0)
    prompts = [model.embed(text).detach() for text in texts]
    together = generate(model, prompts, texts, sampling)
    alone = [generate(model, [vectors], [ids], sampling)[0] for vectors, ids in zip(prompts, texts, strict=True)]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]


@torch.no_grad()
def test_what_stands_among_the_words_is_scaled_as_they_are(scramble):
    """Kosmos-2 multiplies after features have been put in: vectors given are those of ``embed``, unscaled."""
    model, ids = scramble(Magneto(**FORMS["sinusoids"])), torch.randint(0, 61, (2, 9))
    close(model(model.embed(ids)), model(ids))
    entering = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    model(torch.zeros(1, 5, 48))
    model(torch.ones(1, 5, 48))
    close(entering[1] - entering[0], torch.full((1, 5, 48), 1.5))


def test_dropout_is_for_training_alone_and_follows_the_seed():
    model, ids = Magneto(**FORMS["xpos"], dropout=0.1, attention_dropout=0.2), torch.randint(0, 61, (2, 9))
    packing = Packing(torch.ones(2, 9, dtype=torch.bool), causal=True)
    for call in (lambda: model(ids), lambda: model(ids.flatten()[packing.index], layout=packing)):
        model.train()
        torch.manual_seed(3)
        first, second = call(), call()
        torch.manual_seed(3)
        assert torch.equal(call(), first) and not torch.allclose(first, second, atol=1e-3)
        model.eval()
        assert torch.equal(call(), call())
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert not torch.equal(model(ids), model(ids))  # that of the attention's weights is left


MISTAKES = {
    "num_heads: 5 does not divide dim 48": {"num_heads": 5},
    "positions: there is no 'sinusoid'; .*did you mean 'sinusoids'": {"positions": "sinusoid"},
    "init: there is no 'normal'": {"init": "normal"},
    "head_dim: 3 is odd": {"num_heads": 16},
    "xpos_scale: 0": {"xpos_scale": 0},
    "embed_scale: got 0": {"embed_scale": 0.0},
    "attention_dropout: got 1": {"attention_dropout": 1.0},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told(message):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.create_model("magneto_nano", **{"dim": 48, "num_heads": 3, **MISTAKES[message]})


def test_texts_that_are_too_long_are_refused():
    with pytest.raises(zoo.DataError, match="41 tokens; context_length allows 40"):
        Magneto(**FORMS["xpos"])(torch.randint(0, 61, (2, 41)))


@EVERY_FORM
@pytest.mark.parametrize("init", ["xavier", "torchscale"])
def test_it_learns_one_batch_by_heart(form, init):
    torch.manual_seed(1)
    model = Magneto(**FORMS[form], init=init)
    ids = torch.randint(0, 61, (2, 12))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        scores = model.logits(model(ids[:, :-1]))
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1

"""RWKV-7 against BlinkDL's package ``rwkv``: files in and out, state carried, padding, and as the language model of LLaVA."""

import os

import numpy as np
import pytest
import torch

import zoo
from tests.support.sines import fill
from zoo.assembly.summary import summarize
from zoo.interop import rwkv7 as names
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.language.rwkv7 import SLOWEST, Rwkv7, recur, recur_in_chunks
from zoo.layers.recurrent_state import previous_real

SIZES = {"vocab_size": 61, "context_length": 64, "dim": 24, "depth": 3, "head_dim": 8, "decay_rank": 5, "rate_rank": 3, "value_rank": 4}
GOLDEN = {"vocab_size": 13, "dim": 8, "depth": 2, "head_dim": 4, "decay_rank": 3, "rate_rank": 3, "value_rank": 2, "gate_rank": 4}


def make(**changes):
    """A model with weights that matter: those that start at zero or one are random."""
    torch.manual_seed(0)
    model = Rwkv7(**{**SIZES, "gate_rank": 6, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def close():
    """Fail unless two tensors differ by at most 1e-5 of the largest value."""

    def compare(found, expected):
        torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)

    return compare


@pytest.fixture(scope="module")
def package():
    """The reference's class, which chooses by the environment what it defines."""
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    return pytest.importorskip("rwkv.model").RWKV


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rwkv7_191m", 191_034_624), ("rwkv7_450m", 450_767_872), ("rwkv7_1_5b", 1_527_404_544), ("rwkv7_2_9b", 2_947_735_040)],
)
def test_parameter_counts_are_the_published_ones(name, expected):
    assert summarize(name).parameters == expected


@torch.no_grad()
def test_logits_and_states_equal_the_reference(package, tmp_path, close):
    model, ids = make(), torch.randint(0, 61, (1, 17))
    model.remember({"language": {"name": "rwkv7", **SIZES, "gate_rank": 6}})
    zoo.export(model, tmp_path / "theirs", format="rwkv")
    reference = package(model=str(tmp_path / "theirs" / "model"), strategy="cpu fp32")
    theirs, state = reference.forward(ids[0].tolist(), None, full_output=True)
    cache = model.new_cache(1, 0)
    close(model.logits(model(ids, cache=cache))[0], theirs)
    for layer in range(3):
        close(cache.shifted[0, layer, 0], state[3 * layer])
        close(cache.matrices[layer, 0], state[3 * layer + 1])
        close(cache.shifted[1, layer, 0], state[3 * layer + 2])
    again = zoo.load(tmp_path / "theirs" / "model.pth").head.language
    assert torch.equal(again(ids), model(ids))
    for num_beams in (1, 3):
        (found,) = generate(model, [model.embed(ids[0])], [ids[0]], Sampling(max_new_tokens=8, num_beams=num_beams))
        assert found.ids == written(reference, ids[0].tolist(), num_beams)


def written(reference, ids, num_beams):
    """Eight tokens by beam search with the reference, each text read from its beginning."""
    beams = [(0.0, [])]
    for _ in range(8):
        longer = []
        for score, text in beams:
            logits, _ = reference.forward(ids + text, None)
            longer += [(score + log, [*text, token]) for token, log in enumerate(logits.log_softmax(-1).tolist())]
        beams = sorted(longer, key=lambda each: -each[0])[:num_beams]
    return beams[0][1]


@torch.no_grad()
def test_logits_are_those_that_the_reference_gave_for_weights_of_sines():
    model = make(**GOLDEN)
    theirs = names.from_zoo(model.state_dict()) | {"blocks.0.att.v0": torch.empty(8), "blocks.0.att.v1": torch.empty(8, 2)}
    theirs = fill(theirs | {"blocks.0.att.v2": torch.empty(2, 8)})
    assert sum(tensor.numel() for tensor in theirs.values()) == 2464
    model.load_state_dict(names.to_zoo(theirs))
    logits = model.logits(model(torch.tensor([[5, 9, 3, 7, 2, 11]])))[0]
    # package rwkv 0.8.32, strategy "cpu fp32", with the same weights
    torch.testing.assert_close(logits[-1, :4], torch.tensor([0.16748812, 0.30990158, 0.3132101, 0.17592851]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.abs().sum(), torch.tensor(28.084542), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_state_follows_its_recurrence_entry_by_entry():
    r, w, k, v, removed, rate = torch.rand(6, 1, 3, 1, 2)
    outputs, last = recur(torch.zeros(1, 1, 2, 2), r, w, k, v, removed, rate)
    state = torch.zeros(2, 2)
    for t in range(3):
        following = torch.empty(2, 2)
        for value in range(2):
            for key in range(2):
                along = sum(state[value, other] * removed[0, t, 0, other] for other in range(2))
                forgotten = along * rate[0, t, 0, key] * removed[0, t, 0, key]
                following[value, key] = state[value, key] * w[0, t, 0, key] - forgotten + v[0, t, 0, value] * k[0, t, 0, key]
        state = following
        torch.testing.assert_close(outputs[0, t, 0], state @ r[0, t, 0])
    torch.testing.assert_close(last[0, 0], state)


@pytest.mark.parametrize(("length", "decay"), [(1, 0.0), (31, 0.0), (70, 3.0), (96, 50.0)])  # at 50, all decay as fast as they can
def test_chunks_equal_the_loop_over_tokens_in_values_and_gradients(length, decay, close):
    torch.manual_seed(0)
    r, k, v, removed, rate = torch.randn(5, 2, length, 3, 8).unbind(0)
    w = torch.exp(SLOWEST * torch.sigmoid(torch.randn(2, length, 3, 8) + decay))
    given = [torch.randn(2, 3, 8, 8), r, w, k, v, torch.nn.functional.normalize(removed, dim=-1), rate.sigmoid()]
    found = []
    for run in (recur, recur_in_chunks):
        inputs = [each.clone().requires_grad_() for each in given]
        outputs, state = run(*inputs)
        (outputs.sin().sum() + state.sin().sum()).backward()
        found.append((outputs, state, *(each.grad for each in inputs)))
    for expected, ours in zip(*found, strict=True):
        close(ours, expected)


@torch.no_grad()
def test_the_token_before_is_the_last_real_one():
    x, before = torch.arange(1.0, 5)[None, :, None], torch.tensor([[9.0]])
    found, last = previous_real(x, before, torch.tensor([[False, True, True, False]]))
    assert found.flatten().tolist() == [9, 9, 2, 3] and last.item() == 3
    assert previous_real(x, before, torch.zeros(1, 4, dtype=torch.bool))[1].item() == 9


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_leaves_the_state_of_every_call_as_it_is(side):
    model, ids, more = make(), torch.randint(0, 61, (2, 6)), torch.randint(0, 61, (2, 5))
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    mask = mask.flip(1) if side == "left" else mask
    cache = model.new_cache(2, 0)
    model(ids, cache=cache)
    model(more, mask, cache=cache)
    alone = model.new_cache(1, 0)
    model(torch.cat([ids[1:], more[1][mask[1]][None]], 1), cache=alone)
    torch.testing.assert_close(cache.matrices[:, 1:], alone.matrices, atol=1e-5, rtol=0)
    torch.testing.assert_close(cache.shifted[:, :, 1:], alone.shifted, atol=1e-5, rtol=0)


def test_a_state_takes_the_same_memory_for_any_length_and_goes_back_only_to_the_start():
    model = make()
    cache = model.new_cache(2, 0)
    size = cache.matrices.numel()
    with torch.no_grad():
        model(torch.randint(0, 61, (2, 30)), cache=cache)
    assert cache.matrices.numel() == size and cache.length == 30
    assert cache.select(torch.tensor([1, 1, 0])).batch_size == 3
    assert cache.crop(30).matrices.any() and not cache.crop(29).matrices.any() and cache.length == 0
    with pytest.raises(zoo.DataError, match="has read 0 tokens"):
        cache.crop(1)


def test_llava_reads_images_with_it_and_answers_as_one_by_one():
    system = zoo.create_system("llava_nano", ["language@system.head.language=rwkv7_nano"])
    system.processor.fit(["what is this? a number"] * 3)
    with torch.no_grad():  # weights large enough that an answer depends on its prompt
        for parameter in system.head.parameters():
            parameter.mul_(3.0)
    prompts = [[np.full((32, 32, 3), 90, dtype=np.uint8), "what is this?"], "a number", ["what?"]]
    together = system.generate(prompts, max_new_tokens=6)
    assert together == [system.generate([prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert system.generate(prompts[:1], max_new_tokens=4, num_beams=2)


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(zoo.DataError, match="a text has 65 tokens; context_length allows 64"):
        make()(torch.zeros(1, 65, dtype=torch.int64))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(zoo.ConfigError, match="head_dim: 7 does not divide dim 24"):
        make(head_dim=7)

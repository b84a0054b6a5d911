"""Language models in int4 and fp16: closeness to float32, batches and caches, one packing, stored weights unchanged."""

import copy

import pytest
import torch

import zoo
from zoo.errors import ConfigError
from zoo.language.causal_lm import CausalLM
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.layers.low_precision.modes import packed_memory, precision_of, set_precision
from zoo.layers.low_precision.packings import kept

NAMES = ("llama_nano", "qwen3_nano", "gemma3_nano", "gpt2_nano", "magneto_nano")
# Relative error of one product of random numbers (int4 .08, fp16 .0002). A layer has four products in a row, whose
# errors are independent with random weights: they add as squares.
PRODUCT = {"int4": 0.085, "bf16": 0.015, "fp16": 0.0004}
# Attention differs in the last bit between batches, which can move an activation to the next bfloat16.
TOGETHER = {"int4": 0.02, "fp16": 1e-5}  # fp16 keeps activations in float32
EACH = pytest.mark.parametrize("precision", TOGETHER)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def model(scramble):
    return lambda name, precision: set_precision(scramble(zoo.create_model(name), std=0.05), precision)


@torch.inference_mode()
def logits(model, ids, **keywords):
    return model.logits(model(ids, **keywords)).float()


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def bound(model, precision):
    return PRODUCT[precision] * (4 * len(model.blocks) + 1) ** 0.5


@pytest.mark.parametrize("precision", PRODUCT)
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_close_to_those_of_float32(name, precision, model):
    exact, ids = model(name, "fp32"), torch.randint(0, 512, (3, 30))
    expected = logits(exact, ids)
    assert 0 < error(logits(set_precision(copy.deepcopy(exact), precision), ids), expected) < bound(exact, precision)


@EACH
@pytest.mark.parametrize("name", ["llama_nano", "gpt2_nano"])
def test_a_text_gives_the_same_alone_in_a_batch_and_with_a_cache(name, precision, model):
    low, ids = model(name, precision), torch.randint(0, 512, (5, 20))
    together = logits(low, ids)
    assert max(error(logits(low, row[None])[0], both) for row, both in zip(ids, together, strict=True)) < TOGETHER[precision]
    cache = low.new_cache(5, 20)
    steps = [logits(low, ids[:, :17], cache=cache), *(logits(low, ids[:, [place]], cache=cache) for place in range(17, 20))]
    assert error(torch.cat(steps, dim=1), together) < TOGETHER[precision]


@EACH
def test_a_copy_a_saved_model_and_more_threads_give_the_same(precision, model, tmp_path):
    low, ids = model("llama_nano", precision), torch.randint(0, 512, (2, 70))
    expected = logits(low, ids)
    assert torch.equal(logits(copy.deepcopy(low), ids), expected)
    zoo.save(low, tmp_path / "saved")
    assert torch.equal(zoo.load(tmp_path / "saved").blocks[0].mlp.fc1.weight, low.blocks[0].mlp.fc1.weight)
    assert torch.equal(logits(zoo.load(tmp_path / "saved", precision=precision).eval(), ids), expected)
    before = torch.get_num_threads()
    torch.set_num_threads(3 - before if before < 3 else 1)
    try:
        assert error(logits(low, ids), expected) < TOGETHER[precision]
    finally:
        torch.set_num_threads(before)


@EACH
def test_generating_makes_no_float32_copies(precision, model):
    low, ids = model("llama_nano", precision), torch.randint(0, 512, (2, 5))
    with torch.inference_mode():
        answers = generate(low, list(low.embed(ids)), list(ids), Sampling(max_new_tokens=4))
    assert [len(answer.ids) for answer in answers] == [4, 4]
    assert kept(low.blocks[0].attention.qkv.weight, precision) is not None
    assert kept(low.embedding.weight, {"int4": "int8 few", "fp16": "fp16"}[precision]) is not None
    numbers = sum(weight.numel() for weight in low.parameters() if weight.ndim == 2)
    assert 0 < packed_memory(low) <= 2 * numbers  # a float32 copy would take four bytes a number
    assert precision_of(low) == precision


def test_an_output_layer_is_in_int8_beside_int4_and_plain_again_in_fp32(scramble):
    low = scramble(CausalLM(vocab_size=512, context_length=64, dim=64, depth=2, num_heads=4, hidden_dim=176), std=0.05)
    ids = torch.randint(0, 512, (2, 9))
    expected = logits(low, ids)
    set_precision(low, "int4")
    assert low.lm_head.precision == "int8" and low.blocks[0].mlp.fc2.precision == "int4" and precision_of(low) == "int4"
    assert 0 < error(logits(low, ids), expected) < bound(low, "int4")
    assert torch.equal(logits(set_precision(low, "fp32"), ids), expected)


def test_int8_costs_too_much_perplexity_and_is_refused():
    with pytest.raises(ConfigError, match="does not offer 'int8'"):
        set_precision(zoo.create_model("llama_nano"), "int8")

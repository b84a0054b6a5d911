"""T5's encoder: goldens of its distances, its parameters, and what padding does (equality: tests/convert/test_transformers_text.py)."""

import pytest
import torch
from transformers import SwitchTransformersConfig, SwitchTransformersEncoderModel, T5Config, T5EncoderModel

import zoo
from zoo.assembly.summary import summarize
from zoo.encoders.t5 import T5
from zoo.layers.relative_bias import relative_buckets
from zoo.registry import rows

# Computed from the reference's _relative_position_bucket with 32 buckets and distances up to 128.
BOTH_WAYS = {0: 0, -1: 1, -7: 7, -8: 8, -15: 9, -16: 10, -31: 11, -64: 14, -127: 15, -128: 15, -200: 15}
BOTH_WAYS |= {1: 17, 7: 23, 8: 24, 15: 25, 16: 26, 31: 27, 32: 28, 64: 30, 127: 31, 200: 31}
ONE_WAY = {0: 0, 1: 0, 200: 0, -1: 1, -15: 15, -16: 16, -31: 21, -64: 26, -127: 31}
SIZES = {"vocab_size": 50, "context_length": 40, "dim": 24, "depth": 2, "num_heads": 3, "head_dim": 5, "hidden_dim": 20}


@pytest.mark.parametrize(("goldens", "both_ways"), [(BOTH_WAYS, True), (ONE_WAY, False)])
def test_buckets_of_distances_are_the_goldens(goldens, both_ways):
    found = relative_buckets(torch.tensor([list(goldens)]), num_buckets=32, max_distance=128, both_ways=both_ways)
    assert found[0].tolist() == list(goldens.values())


@pytest.mark.parametrize("name", [name for name, row in rows("encoder").items() if row.family == "t5"])
def test_parameter_counts_are_those_of_the_reference(name):
    row = zoo.create_model(name, device="meta")
    words = rows("encoder")[name].arguments
    sizes = {"vocab_size": row.vocab_size, "d_model": row.dim, "d_kv": row.head_dim, "d_ff": words["hidden_dim"]}
    sizes |= {"num_layers": words["depth"], "num_heads": row.num_heads}
    with torch.device("meta"):
        if "num_experts" in words:
            further = {"num_experts": words["num_experts"], "num_sparse_encoder_layers": words["depth"] // 2}
            reference = SwitchTransformersEncoderModel(SwitchTransformersConfig(**sizes, **further))
        else:
            reference = T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu" if words.get("gated") else "relu"))
    assert summarize(name).parameters == reference.num_parameters()


def test_the_small_one_has_the_parameters_of_the_sheet():
    # 60,506,624 of both stacks: the decoder's six blocks also attend to the encoder (d * inner * 4 and a norm more each)
    encoder = summarize("t5_small").parameters
    words, distances, norm = 32128 * 512, 32 * 8, 512
    stack = encoder - words - distances - norm
    assert encoder + stack + 6 * (4 * 512 * 512 + 512) + distances + norm == 60_506_624


@pytest.mark.parametrize("gated", [False, True])
def test_padding_does_not_change_the_real_tokens(gated):
    model = T5(**SIZES, gated=gated, activation="gelu_tanh").eval()
    ids, mask = torch.randint(0, 50, (2, 33)), torch.arange(33) < torch.tensor([[33], [7]])
    with torch.no_grad():
        together, alone = model(ids, mask), model(ids[1:, :7])
    torch.testing.assert_close(together.tokens[1:, :7], alone.tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.pooled[1:], alone.tokens.mean(1), rtol=0, atol=1e-5)


def test_the_initialisation_is_the_references():
    model = T5(**{**SIZES, "vocab_size": 400, "dim": 240, "num_heads": 12, "head_dim": 10, "hidden_dim": 300})
    q, k, v = model.blocks[0].attention.qkv.weight.split(120)
    expected = [(model.embedding.weight, 1.0), (q, 2400**-0.5), (k, 240**-0.5), (v, 240**-0.5)]
    expected += [(model.blocks[0].attention.out.weight, 120**-0.5), (model.distances, 240**-0.5)]
    expected += [(model.blocks[1].mlp.fc1.weight, 240**-0.5), (model.blocks[1].mlp.fc2.weight, 300**-0.5)]
    for tensor, std in expected:
        assert tensor.std().item() == pytest.approx(std, rel=0.12)  # 384 numbers at the least: a standard error of 4 %


@pytest.mark.parametrize("gated", [False, True])
def test_experts_begin_with_a_tenth_of_the_variance_in_every_second_block(gated):
    """Switch, section 2.4: the scale of the initialisation is 0.1 in place of 1."""
    model = T5(**{**SIZES, "dim": 240, "hidden_dim": 300}, num_experts=3, gated=gated, activation="gelu_tanh")
    experts = model.blocks[1].mlp
    assert [block.routes for block in model.blocks] == [False, True] and experts.gated == gated
    for tensor, std in ((experts.router.weight, 2400**-0.5), (experts.fc1, 2400**-0.5), (experts.fc2, 3000**-0.5)):
        assert tensor.std().item() == pytest.approx(std, rel=0.12)  # 720 numbers at the least: a standard error of 3 %


def test_long_texts_and_wrong_words_are_refused():
    with pytest.raises(zoo.ConfigError, match="pool: there is no 'cls'"):
        T5(**SIZES, pool="cls")
    with pytest.raises(zoo.ConfigError, match="num_buckets: 30"):
        T5(**SIZES, num_buckets=30)
    with pytest.raises(zoo.DataError, match="41 tokens; context_length allows 40"):
        T5(**SIZES)(torch.zeros(1, 41, dtype=torch.int64))

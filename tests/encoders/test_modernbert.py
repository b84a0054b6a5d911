"""ModernBERT: parameter counts, the reach of its layers, padding; equality with its reference: tests/convert/test_transformers_text.py."""

import pytest
import torch

import zoo
from tests.support.sines import sines_by_their_names
from zoo.assembly.summary import summarize
from zoo.encoders.modernbert import ModernBert
from zoo.heads.bert import BertHead
from zoo.interop.text_encoders import modernbert as names
from zoo.types import EncoderSpec, Wiring

SIZES = {"vocab_size": 50, "context_length": 24, "dim": 24, "depth": 4, "num_heads": 3, "hidden_dim": 20, "window": 4}


def make(**changes):
    torch.manual_seed(0)
    return ModernBert(**{**SIZES, **changes}).eval()


@pytest.mark.parametrize(("name", "expected"), [("modernbert_base", 149_014_272), ("modernbert_large", 394_781_696)])
def test_parameter_counts_are_those_of_the_reference(name, expected):
    assert summarize(name).parameters == expected


@pytest.mark.parametrize(("name", "expected"), [("modernbert_base", 149_655_232), ("modernbert_large", 395_881_664)])
def test_with_the_head_of_masked_tokens_the_counts_are_those_of_the_reference(name, expected):
    with torch.device("meta"):
        system = zoo.create_system("modernbert_pretraining_nano", [f"encoder@system.encoders.text={name}"])
    assert sum(parameter.numel() for parameter in system.parameters()) == expected


@torch.no_grad()
def test_logits_are_those_that_the_reference_gave_for_weights_of_sines():
    model = make(vocab_size=13, context_length=32, dim=8, num_heads=2, hidden_dim=12, pool="none")
    head = BertHead(inputs={"text": EncoderSpec.of(model)}, eps=1e-5, bias=False)
    head.connect(Wiring({"text": model}))
    assert sines_by_their_names(names, model, head) == 2437
    logits = head.word_logits(model(torch.tensor([[5, 9, 3, 7, 6, 11]])).tokens[0])
    # transformers 5.17, ModernBertForMaskedLM, with the same weights
    torch.testing.assert_close(logits[0, :4], torch.tensor([-1.65526641, -0.82777208, 0.36713782, 1.39091061]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.abs().sum(), torch.tensor(80.401445), atol=1e-4, rtol=0)


@torch.no_grad()
def test_local_layers_reach_half_a_window_to_either_side():
    model, ids = make(depth=2, global_every=2), torch.randint(0, 50, (1, 11))
    with_block = torch.randint(0, 50, (1, 1))
    changed = ids.clone()
    changed[0, 5] = (with_block + ids[0, 5] + 1) % 50
    model.is_local = [True, True]  # without the global layer, two layers of two tokens reach four tokens
    moved = (model(ids).tokens - model(changed).tokens).abs().amax(-1)[0] > 0
    assert moved.nonzero()[:, 0].tolist() == list(range(1, 10))


@pytest.mark.parametrize("pool", ["cls", "mean"])
@torch.no_grad()
def test_padding_changes_nothing(pool):
    model, ids = make(pool=pool), torch.randint(0, 50, (2, 9))
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
    together, alone = model(ids, mask), model(ids[1:, :4])
    torch.testing.assert_close(together.tokens[1:, :4], alone.tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.pooled[1:], alone.pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pool": "max"}, "pool: there is no 'max'"),
        ({"window": 5}, "window: got 5; allowed is an even number"),
        ({"global_every": 0}, "global_every: got 0"),
        ({"num_heads": 5}, "num_heads: 5 does not divide dim 24"),
    ],
)
def test_numbers_out_of_range_are_refused(change, words):
    with pytest.raises(zoo.ConfigError, match=words):
        make(**change)

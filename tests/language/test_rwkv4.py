"""RWKV-4 against transformers and BlinkDL's package ``rwkv``: files in and out, state carried, padding, large exponents."""

import numpy as np
import pytest
import torch
from sizes import num_parameters
from transformers import GenerationConfig, RwkvConfig, RwkvForCausalLM

import zoo
from tests.support.sines import fill
from zoo.interop import rwkv4 as names
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.language.rwkv4 import Rwkv4, decaying_mean
from zoo.storage.tensors import read_tensors

SIZES = {"vocab_size": 61, "context_length": 64, "dim": 24, "depth": 3, "hidden_dim": 40}
THEIRS = {"vocab_size": 61, "context_length": 64, "hidden_size": 24, "num_hidden_layers": 3, "intermediate_size": 40, "rescale_every": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}


def make(**changes):
    """A model with weights that matter."""
    torch.manual_seed(0)
    model = Rwkv4(**{**SIZES, **changes}).eval()
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("rwkv4_169m", 169_342_464), ("rwkv4_430m", 430_397_440), ("rwkv4_1_5b", 1_515_106_304)),
        *(("rwkv4_3b", 2_984_627_200), ("rwkv4_7b", 7_392_649_216), ("rwkv4_14b", 14_148_597_760)),
    ],
)
def test_parameter_counts_are_the_published_ones(name, expected):
    assert num_parameters(name) == expected


@torch.no_grad()
def test_logits_are_those_that_the_reference_gave_for_weights_of_sines():
    model = make(vocab_size=13, dim=8, depth=2, hidden_dim=32)
    theirs = fill(names.from_zoo(model.state_dict()))
    assert sum(tensor.numel() for tensor in theirs.values()) == 2080
    model.load_state_dict(names.to_zoo(theirs))
    logits = model.logits(model(torch.tensor([[5, 9, 3, 7, 2, 11]])))[0]
    # transformers 5.17, RwkvForCausalLM, with the same weights
    torch.testing.assert_close(logits[-1, :4], torch.tensor([1.00114225, 0.56139405, -0.13034611, -0.76357804]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.abs().sum(), torch.tensor(59.703561), atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_and_greedy_tokens_equal_transformers_there_and_back(scramble, close, tmp_path):
    reference = scramble(RwkvForCausalLM(RwkvConfig(**THEIRS, **ENDS)))
    reference.save_pretrained(tmp_path / "theirs")
    model, ids = zoo.load(tmp_path / "theirs").head.language, torch.randint(3, 61, (2, 9))
    close(model.logits(model(ids)), reference(ids, use_cache=False).logits)
    cache = model.new_cache(2, 0)
    parts = [model(ids[:, start : start + 4], cache=cache) for start in (0, 4, 8)]
    close(torch.cat(parts, 1), model(ids))
    settings = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, use_cache=False, **{**ENDS, "eos_token_id": None})
    expected = reference.generate(ids[:1], attention_mask=torch.ones_like(ids[:1]), generation_config=settings)[0, 9:]
    found, cache, token = [], model.new_cache(1, 0), ids[:1]
    for _ in range(12):
        token = model.logits(model(token, cache=cache))[:, -1:].argmax(-1)
        found.append(int(token))
    assert found == expected.tolist()
    settings.num_beams = 3
    expected = reference.generate(ids[:1], attention_mask=torch.ones_like(ids[:1]), generation_config=settings)[0, 9:]
    (found,) = generate(model, [model.embed(ids[0])], [ids[0]], Sampling(max_new_tokens=12, num_beams=3))
    assert found.ids == expected.tolist()
    zoo.export(zoo.load(tmp_path / "theirs"), tmp_path / "back")
    theirs, back = (read_tensors(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert theirs.keys() == back.keys() and all(torch.equal(back[name], tensor) for name, tensor in theirs.items())
    again, report = RwkvForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    close(again.eval()(ids, use_cache=False).logits, reference(ids, use_cache=False).logits)


def test_decays_and_shares_begin_as_in_transformers():
    """Its ``time_first`` is left out: it is 1 everywhere there, since ``ones_like`` drops the paper's log 0.3 and zigzag."""
    theirs, ours = names.to_zoo(RwkvForCausalLM(RwkvConfig(**THEIRS)).state_dict()), Rwkv4(**SIZES).state_dict()
    for layer in range(3):
        for name in ("time.decay", "time.key_share", "time.value_share", "time.receptance_share", "channel.key_share"):
            torch.testing.assert_close(ours[f"blocks.{layer}.{name}"], theirs[f"blocks.{layer}.{name}"].flatten(), atol=1e-6, rtol=1e-6)
        zigzag = torch.tensor([0.0, 0.5, -0.5]).repeat(8)
        torch.testing.assert_close(ours[f"blocks.{layer}.time.first"], zigzag + torch.tensor(0.3).log(), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_authors_files_go_out_and_come_back(tmp_path):
    model, ids = make(), torch.randint(0, 61, (1, 7))
    model.remember({"language": {"name": "rwkv4", **SIZES}})
    zoo.export(model, tmp_path / "theirs", format="rwkv")
    tensors = torch.load(tmp_path / "theirs" / "model.pth", weights_only=True)
    assert tensors["blocks.1.att.time_mix_k"].shape == (1, 1, 24) and "blocks.0.ln0.weight" in tensors
    again = zoo.load(tmp_path / "theirs" / "model.pth").head.language
    assert torch.equal(again(ids), model(ids))


@torch.no_grad()
def test_the_mean_is_that_of_its_formula_and_never_overflows():
    k, v, decay, first = torch.randn(1, 6, 2), torch.randn(1, 6, 2), torch.rand(2) + 0.1, torch.randn(2)
    found, _ = decaying_mean(torch.zeros(1, 3, 2), k, v, decay, first, None)
    for t in range(6):
        weights = torch.stack([torch.exp(k[0, j] - (t - 1 - j) * decay) for j in range(t)] + [torch.exp(k[0, t] + first)])
        torch.testing.assert_close(found[0, t], (weights * v[0, : t + 1]).sum(0) / weights.sum(0), atol=1e-5, rtol=1e-5)
    for size in (-300.0, 300.0):
        shifted, _ = decaying_mean(torch.zeros(1, 3, 2), k + size, v, decay, first, None)
        torch.testing.assert_close(shifted, found, atol=1e-3, rtol=0)  # k + 300 has steps of 3e-5


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
    torch.testing.assert_close(cache.matrices[:, 1:], alone.matrices, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache.shifted[:, :, 1:], alone.shifted, atol=1e-5, rtol=0)


def test_llava_reads_images_with_it_and_answers_as_one_by_one():
    system = zoo.create_system("llava_nano", ["language@system.head.language=rwkv4_nano"])
    system.processor.fit(["what is this? a number"] * 3)
    with torch.no_grad():  # weights large enough that an answer depends on its prompt
        for parameter in system.head.parameters():
            parameter.mul_(3.0)
    prompts = [[np.full((32, 32, 3), 90, dtype=np.uint8), "what is this?"], "a number", ["what?"]]
    together = system.generate(prompts, max_new_tokens=6)
    assert together == [system.generate([prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert system.generate(prompts[:1], max_new_tokens=4, num_beams=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"attention_hidden_size": 48}, "attention_hidden_size: got 48"), ({"tie_word_embeddings": True}, "tie_word_embeddings: got True")],
)
def test_what_ours_does_not_have_is_refused(change, words):
    with pytest.raises(zoo.ConfigError, match=words):
        names.arguments({"model_type": "rwkv", "hidden_size": 24, **change})


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(zoo.DataError, match="a text has 65 tokens; context_length allows 64"):
        make()(torch.zeros(1, 65, dtype=torch.int64))

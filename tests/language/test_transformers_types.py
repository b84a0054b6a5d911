"""Types of causal language models of transformers: equal to the library's, or refused when built with the reason."""

import random

import language_types
import pytest
import torch
import transformers

import zoo
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.layers import hosted_probe
from zoo.layers.hosted_tiny import shrink
from zoo.registry.construct import build_part

KINDS = {  # one per kind of cache, of position, or of padding
    "roberta": "positions begin after padding_idx",
    "bart": "positions count padding, so that rows run alone",
    "bloom": "takes no positions",
    "mistral": "keys of a window",
    "llama4_text": "chunks, and a base model under another name",
    "gemma4_text": "settings that differ from layer to layer",
    "olmo_hybrid": "states of linear attention",
    "jamba": "states after which one token follows at a time",
    "falcon_h1": "logits scaled by the inner model",
}
REFUSED = {  # cases of bug reports; the first two were causal in name only, and silently wrong with a cache
    "big_bird": ({"is_decoder": False}, "its attention is not causal.*set config.is_decoder to true"),
    "rembert": ({"is_decoder": False}, "its attention is not causal.*set config.is_decoder to true"),
    "roformer": ({}, "its attention is not causal"),
    "doge": ({}, "its attention is not causal"),
    "minimax": ({}, "cannot run it with a cache: ValueError: MiniMax uses cache of its own"),
    "gemma3n_text": ({}, "it reads the ids in further places"),
    "gemma4_text": ({"hidden_size_per_layer_input": 8}, "cannot run it with vectors that are no words, as those of images"),
    "recurrent_gemma": ({}, "its cache does not continue a text"),
    "openai-gpt": ({}, "does not accept past_key_values"),
}
NUM_SAMPLED = 30  # types of the heavy test; all 178 take 100 s


@pytest.fixture(scope="module", params=KINDS)
def models(request):
    """Return our model of a kind and the library's, with the same weights."""
    return language_types.pair(request.param)


def test_logits_are_those_of_transformers_whole_cached_and_padded(models):
    far = language_types.differences(*models)
    assert max(far.values()) < language_types.TOLERANCE, far


@torch.no_grad()
def test_greedy_answers_of_a_batch_are_those_of_transformers(models):
    ours, theirs = models
    prompts = [torch.randint(10, 96, (length,)) for length in (9, 4, 7)]
    answers = generate(ours, [ours.embed(ids) for ids in prompts], prompts, Sampling(max_new_tokens=5))
    expected = []
    for ids in prompts:
        for _ in range(5):
            ids = torch.cat([ids, theirs(input_ids=ids[None], use_cache=False).logits[0, -1:].argmax(-1)])
        expected.append(ids[-5:].tolist())
    assert [answer.ids for answer in answers] == expected
    right = generate(ours, [ours.embed(ids) for ids in prompts], prompts, Sampling(max_new_tokens=5, padding_side="right"))
    assert [answer.ids for answer in right] == expected


@torch.no_grad()
def test_rows_of_a_cache_are_chosen_and_cut(models):
    ours, _ = models
    ids, mask = torch.randint(10, 96, (2, 9)), torch.arange(9) >= torch.tensor([[0], [3]])
    cache = ours.new_cache(2, 12)
    ours(ids, mask, cache=cache)
    cache.select(torch.tensor([1, 1, 0]))
    further = torch.randint(10, 96, (3, 1))
    found = ours(further, cache=cache)[:, 0]
    for row, begun in enumerate((ids[1, 3:], ids[1, 3:], ids[0])):
        torch.testing.assert_close(found[row], ours(torch.cat([begun, further[row]])[None])[0, -1], atol=1e-5, rtol=1e-4)
    assert cache.crop(8).length in (0, 8)  # 0 if the state of before is not held any more
    assert cache.crop(0).length == 0 and not cache.padded


def test_beam_search_is_that_of_transformers():
    ours, theirs = language_types.pair("olmo_hybrid")
    ids = torch.randint(10, 96, (6,))
    settings = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        expected = theirs.generate(ids[None], attention_mask=torch.ones(1, 6), **settings)[0, 6:].tolist()
        (answer,) = generate(ours, [ours.embed(ids)], [ids], Sampling(max_new_tokens=4, num_beams=3))
    assert answer.ids == expected


@pytest.mark.parametrize("kind", REFUSED)
def test_types_that_would_be_wrong_are_refused_with_the_reason(kind):
    settings, message = REFUSED[kind]
    with pytest.raises(zoo.ConfigError, match=f"'{kind}' cannot be used: .*{message}"):
        build_part("language", {"name": "transformers", "config": language_types.tiny_config(kind, **settings)}, "language")


def test_a_trial_leaves_random_numbers_and_dtype_alone():
    config = language_types.tiny_config("stablelm")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    parsed = transformers.AutoConfig.for_model(**config)
    hosted_probe.find_habits(parsed, transformers.AutoModelForCausalLM.from_config)
    assert torch.equal(torch.rand(1), expected)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert build_part("language", {"name": "transformers", "config": config}, "language").model.dtype is torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_config_without_a_tiny_copy_is_tried_itself(monkeypatch):
    monkeypatch.setattr(hosted_probe, "find_habits", lambda *_: (_ for _ in ()).throw(hosted_probe.TinyCopyError()))
    ours, theirs = language_types.pair("roberta")
    assert max(language_types.differences(ours, theirs).values()) < language_types.TOLERANCE and ours.context_length == 64 - 2


def test_a_tiny_copy_keeps_every_kind_of_layer_and_every_setting():
    config = {"num_hidden_layers": 8, "layer_types": ["a", "a", "a", "b"] * 2, "vocab_size": 99999, "tie": True, "eps": 1e-3}
    small = shrink({**config, "num_attention_heads": 32, "num_key_value_heads": 32, "nested": {"hidden_size": 4096}}, {})
    assert small["num_hidden_layers"] == 4 and small["layer_types"] == ["a", "a", "a", "b"] and small["vocab_size"] == 97
    assert small["tie"] is True and small["eps"] == 1e-3 and small["nested"] == {"hidden_size": 32}
    assert small["num_attention_heads"] == small["num_key_value_heads"] == 4


@pytest.mark.heavy
@pytest.mark.parametrize("kind", random.Random(16).sample(language_types.TYPES, NUM_SAMPLED))
def test_sampled_types_are_equal_or_refused(kind):
    status, detail = language_types.outcome(kind)
    assert status in ("equal", "refused"), detail

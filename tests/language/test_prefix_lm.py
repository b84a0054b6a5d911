"""Prefix language model: the first tokens of a row see each other (UniLM's sequence-to-sequence mask, PaliGemma's prefix)."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import zoo
from zoo.errors import ConfigError, DataError
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.layers.attention import causal_mask
from zoo.layers.decoder import prefix_keys, with_prefix
from zoo.layers.packing import Packing

LENGTHS, PREFIXES = torch.tensor([7, 4, 6]), torch.tensor([3, 4, 0])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Their model with random weights, and ours read from its directory; two heads share a head of keys."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "max_position_embeddings": 40}
    theirs = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path_factory.mktemp("llama")
    theirs.save_pretrained(folder)
    return theirs, zoo.load(folder).head.language


def batch():
    ids = torch.randint(3, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    return ids, torch.arange(7) < LENGTHS[:, None]


def test_the_mask_of_two_and_three_tokens():
    """UniLM's figure: source tokens see the source, target tokens the source and the target up to themselves."""
    seen = with_prefix(None, prefix_keys(torch.tensor([2]), None, 5))
    rows = ["".join(str(int(key)) for key in query) for query in seen[0, 0]]
    assert rows == ["11000", "11000", "11100", "11110", "11111"]
    narrow = with_prefix(causal_mask(5, 5, seen.device, 2), prefix_keys(torch.tensor([3]), None, 5))  # no window inside the prefix
    assert ["".join(str(int(key)) for key in query) for query in narrow[0, 0]] == ["11100", "11100", "11100", "00110", "00011"]
    left = prefix_keys(torch.tensor([2]), torch.tensor([[False, True, True, True]]), 4)
    assert left.tolist() == [[False, True, True, False]]


@torch.no_grad()
def test_hidden_states_equal_theirs_with_the_same_mask(models):
    theirs, ours = models
    ids, mask = batch()
    for row in range(3):
        length = int(LENGTHS[row])
        seen = with_prefix(None, prefix_keys(PREFIXES[row : row + 1], None, length))
        added = torch.zeros(seen.shape).masked_fill(~seen, -1e9)
        expected = theirs(input_ids=ids[row : row + 1, :length], attention_mask=added).logits
        found = ours.logits(ours(ids, mask, prefix_lengths=PREFIXES))[row, :length]
        torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 2, [2, None]])
def test_packing_padding_and_a_cache_change_nothing(window, models):
    _, ours = models
    if window is not None:
        torch.manual_seed(0)
        ours = zoo.create_model("llama_nano", window=window, vocab_size=512).eval()
    ids, mask = batch()
    expected = ours(ids, mask, prefix_lengths=PREFIXES)
    for rounding in (1, 4):
        packing = Packing(mask, causal=True, rounding=rounding, prefix_lengths=PREFIXES)
        found = packing.unpack(ours(packing.pack(ours.embed(ids)), layout=packing))
        torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)
    left = torch.zeros_like(ids)
    left[mask.flip(1)] = ids[mask]
    found = ours(left, mask.flip(1), prefix_lengths=PREFIXES)
    torch.testing.assert_close(found[mask.flip(1)], expected[mask], atol=1e-5, rtol=1e-5)
    cache = ours.new_cache(3, 7)
    pieces = [ours(ids[:, :4], mask[:, :4], cache=cache, prefix_lengths=PREFIXES), ours(ids[:, 4:], mask[:, 4:], cache=cache)]
    torch.testing.assert_close(torch.cat(pieces, 1)[mask], expected[mask], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_prefix_of_one_token_is_the_causal_model(models):
    _, ours = models
    ids, mask = batch()
    plain = ours(ids, mask)
    torch.testing.assert_close(ours(ids, mask, prefix_lengths=torch.ones(3, dtype=torch.int64)), plain, atol=1e-6, rtol=1e-6)
    assert float((ours(ids, mask, prefix_lengths=PREFIXES) - plain)[0].abs().max()) > 1e-3


@torch.no_grad()
def test_answers_are_those_of_uncached_decoding_in_any_batch(models):
    _, ours = models
    ids, _ = batch()
    prompts = [ids[row, : int(LENGTHS[row])] for row in range(3)]
    prefixes = [len(prompt) for prompt in prompts]

    def answers(rows, **settings):
        some = [prompts[row] for row in rows]
        own = [prefixes[row] for row in rows]
        found = generate(ours, [ours.embed(each) for each in some], some, Sampling(max_new_tokens=5, **settings), prefix_lengths=own)
        return [answer.ids for answer in found]

    together = answers(range(3))
    assert together == [answers([row])[0] for row in range(3)] and len(answers(range(3), num_beams=2)) == 3
    for prompt, answer in zip(prompts, together, strict=True):
        text = prompt
        for token in answer:
            hidden = ours(text[None], prefix_lengths=torch.tensor([len(prompt)]))
            assert int(ours.logits(hidden)[0, -1].argmax()) == token
            text = torch.cat([text, torch.tensor([token])])


@torch.no_grad()
def test_impossible_prefixes_are_refused(models):
    _, ours = models
    ids, mask = batch()
    cache = ours.new_cache(3, 7)
    ours(ids[:, :2], cache=cache)
    with pytest.raises(DataError, match="the cache holds 2 tokens"):
        ours(ids[:, 2:], cache=cache, prefix_lengths=PREFIXES)
    with pytest.raises(ConfigError, match="they belong to its layout"):
        ours(ids.flatten(), layout=Packing(mask, causal=True), prefix_lengths=PREFIXES)
    recurrent = zoo.create_model("rwkv7_nano")
    with pytest.raises(ConfigError, match="has no prefix"):
        generate(recurrent, [recurrent.embed(ids[0])], [ids[0]], Sampling(max_new_tokens=2), prefix_lengths=[3])

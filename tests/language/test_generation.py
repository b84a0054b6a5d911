"""Generation against transformers' ``generate`` with the same weights; results do not depend on batch and cache."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.assembly.create import create_model
from zoo.errors import ConfigError, DataError
from zoo.interop.causal_lm import transformers_causal_lm
from zoo.language.causal_lm import CausalLM
from zoo.language.decoding.generate import Generated, generate
from zoo.language.decoding.sampling import Sampling
from zoo.storage.tensors import load_strictly

VOCAB = 61


@pytest.fixture(scope="module")
def pair():
    """A tiny random Llama and ours with its weights; the scale makes it say different things after different prompts."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    config = LlamaConfig(vocab_size=VOCAB, **sizes, max_position_embeddings=96, rms_norm_eps=1e-5, tie_word_embeddings=False)
    theirs = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.35)
    sizes = {"dim": 32, "depth": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_dim": 48}
    ours = CausalLM(vocab_size=VOCAB, context_length=96, **sizes).eval()
    load_strictly(ours, transformers_causal_lm.to_zoo(theirs.state_dict()), origin="transformers")
    return theirs, ours


def prompts_of(*lengths):
    return [torch.randint(3, VOCAB, (n,)) for n in lengths]


def ask(language, prompts, sampling, **keywords):
    return generate(language, [language.embed(ids) for ids in prompts], prompts, sampling, **keywords)


def ask_transformers(model, prompts, *, eos=(), new=24, **keywords):
    """Their answers to a batch that is padded on the left, without padding and end symbol."""
    longest = max(map(len, prompts))
    ids = torch.stack([torch.nn.functional.pad(p, (longest - len(p), 0)) for p in prompts])
    mask = torch.stack([torch.arange(longest) >= longest - len(p) for p in prompts]).long()
    keywords = {"do_sample": False, "eos_token_id": list(eos) or None, "pad_token_id": 0, "max_new_tokens": new} | keywords
    found = model.generate(input_ids=ids, attention_mask=mask, **keywords)[:, longest:].tolist()
    return [cut(row, eos) for row in found]


def cut(row, eos):
    ends = [place for place, token in enumerate(row) if token in eos]
    return row[: ends[0]] if ends else row


def answers(found):
    return [answer.ids for answer in found]


def common_tokens(found, count):
    """The tokens that answers hold most often: as end symbols they end many, at different places."""
    return tuple(torch.cat([torch.tensor(answer) for answer in found]).bincount(minlength=VOCAB).topk(count).indices.tolist())


@pytest.mark.parametrize("num_eos", [0, 1, 3])
def test_greedy_answers_to_a_batch_of_mixed_lengths_equal_transformers(pair, num_eos):
    theirs, ours = pair
    prompts = prompts_of(5, 17, 1, 9, 30)
    eos = common_tokens(ask_transformers(theirs, prompts), num_eos)
    found = ask(ours, prompts, Sampling(max_new_tokens=24, eos_token_ids=eos))
    assert answers(found) == ask_transformers(theirs, prompts, eos=eos)
    assert {answer.stop_reason for answer in found} == ({"length"} if not eos else {"eos"} if num_eos == 3 else {"eos", "length"})


def test_the_repetition_penalty_gives_the_answers_of_transformers(pair):
    theirs, ours = pair
    prompts = prompts_of(12, 12, 12)  # they count padding as seen
    found = answers(ask(ours, prompts, Sampling(max_new_tokens=24, repetition_penalty=1.4)))
    assert found == ask_transformers(theirs, prompts, repetition_penalty=1.4) != ask_transformers(theirs, prompts)


@pytest.mark.parametrize("num_beams", [2, 3, 4])
@pytest.mark.parametrize("length_penalty", [-0.5, 1.0, 2.0])
def test_beams_find_what_those_of_transformers_find(pair, num_beams, length_penalty):
    theirs, ours = pair
    prompts = prompts_of(5, 17, 1, 9, 30)
    eos = common_tokens(ask_transformers(theirs, prompts), 2)[1:]
    sampling = Sampling(max_new_tokens=16, num_beams=num_beams, length_penalty=length_penalty, eos_token_ids=eos)
    found = ask(ours, prompts, sampling)
    expected = ask_transformers(theirs, prompts, eos=eos, new=16, num_beams=num_beams, length_penalty=length_penalty)
    assert answers(found) == expected != ask_transformers(theirs, prompts, eos=eos, new=16)


@pytest.mark.parametrize("num_eos", [0, 2])
def test_beams_with_a_repetition_penalty_and_several_end_symbols_equal_transformers(pair, num_eos):
    theirs, ours = pair
    prompts = prompts_of(8, 8, 8)
    eos = common_tokens(ask_transformers(theirs, prompts), 3)[1 : 1 + num_eos]
    found = answers(ask(ours, prompts, Sampling(max_new_tokens=12, num_beams=3, repetition_penalty=1.3, eos_token_ids=eos)))
    assert found == ask_transformers(theirs, prompts, eos=eos, new=12, num_beams=3, repetition_penalty=1.3)


SETTINGS = {
    "greedy": {},
    "drawn": {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.001, "seed": 5},
    "penalised": {"repetition_penalty": 1.3},
    "beams": {"num_beams": 3},
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_batch_gives_what_single_prompts_give_on_whichever_side_it_is_padded(pair, settings, side):
    prompts = prompts_of(5, 17, 1, 9, 9, 30)
    eos = common_tokens(answers(ask(pair[1], prompts, Sampling(max_new_tokens=20))), 2)
    sampling = Sampling(max_new_tokens=20, eos_token_ids=eos, padding_side=side, **SETTINGS[settings])
    together = ask(pair[1], prompts, sampling)
    assert together == [ask(pair[1], [prompt], sampling, rows=[number])[0] for number, prompt in enumerate(prompts)]
    assert len({len(answer.ids) for answer in together}) > 2  # rows left at different steps


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2_nano", "mistral_nano"])
def test_a_batch_gives_what_single_prompts_give_with_learned_positions_and_with_a_window(scramble, name, side):
    language = scramble(create_model(name))
    prompts = prompts_of(5, 60, 31)  # the window is 32
    for settings in ("penalised", "drawn"):
        sampling = Sampling(max_new_tokens=12, padding_side=side, **SETTINGS[settings])
        together = ask(language, prompts, sampling)
        assert together == [ask(language, [prompt], sampling, rows=[number])[0] for number, prompt in enumerate(prompts)]
        assert len(set(together[0].ids)) > 3


def test_a_seed_decides_the_draws_and_other_rows_draw_otherwise(pair):
    (prompt,) = prompts_of(7)
    first, again, other = (
        answers(ask(pair[1], [prompt] * 3, Sampling(max_new_tokens=20, temperature=1.0, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again != other and len({tuple(answer) for answer in first}) == 3


def test_without_a_seed_the_global_generator_decides(pair):
    (prompt,), sampling = prompts_of(7), Sampling(max_new_tokens=20, temperature=1.0)
    torch.manual_seed(3)
    first, other = (ask(pair[1], [prompt], sampling) for _ in range(2))
    torch.manual_seed(3)
    assert ask(pair[1], [prompt], sampling) == first != other


def test_draws_follow_the_models_distribution(pair):
    (prompt,) = prompts_of(7)
    found = ask(pair[1], [prompt] * 3000, Sampling(max_new_tokens=1, temperature=0.8, top_k=5, seed=0))
    counts = torch.tensor([answer.ids[0] for answer in found]).bincount(minlength=VOCAB) / 3000
    top = pair[0](prompt[None]).logits[0, -1].topk(5)
    expected = torch.zeros(VOCAB).scatter(0, top.indices, (top.values / 0.8).softmax(-1))
    torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)  # 3.3 standard deviations at 0.5


def test_an_answer_ends_where_the_context_is_full(pair):
    found = ask(pair[1], prompts_of(90, 80), Sampling(max_new_tokens=12))
    assert [(len(answer.ids), answer.stop_reason) for answer in found] == [(6, "context"), (12, "length")]
    beams = ask(pair[1], prompts_of(90, 80), Sampling(max_new_tokens=12, num_beams=2))
    assert [(len(answer.ids), answer.stop_reason) for answer in beams] == [(6, "context"), (12, "length")]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_answer_ends_where_stop_says_so(pair, num_beams):
    prompts = prompts_of(5, 17)
    free = answers(ask(pair[1], prompts, Sampling(max_new_tokens=20)))
    wanted = free[0][6:8]
    found = ask(pair[1], prompts, Sampling(max_new_tokens=20, num_beams=num_beams), stop=lambda ids: ids[-2:] == wanted)
    assert any(answer.stop_reason == "stop" and answer.ids[-2:] == wanted for answer in found)
    if num_beams == 1:
        assert found[0] == Generated(free[0][:8], "stop") and found[1] == Generated(free[1], "length")


@pytest.mark.parametrize("num_beams", [1, 2])
def test_every_token_of_an_answer_is_told_once_and_in_order(pair, num_beams):
    prompts, told = prompts_of(5, 17, 3), [[], [], []]
    eos = common_tokens(answers(ask(pair[1], prompts, Sampling(max_new_tokens=20))), 2)
    sampling = Sampling(max_new_tokens=20, eos_token_ids=eos, num_beams=num_beams)
    found = ask(pair[1], prompts, sampling, on_token=lambda row, token: told[row].append(token))
    assert told == answers(found) and any(told)


def counted(language, monkeypatch):
    """Count the tokens of each call of the model, in a list that is returned."""
    shown, forward = [], language.forward
    monkeypatch.setattr(language, "forward", lambda x, *rest, **named: (shown.append(x.shape[1]), forward(x, *rest, **named))[1])
    return shown


def test_a_cache_of_earlier_turns_changes_nothing_and_only_new_tokens_are_shown(pair, monkeypatch):
    language, sampling = pair[1], Sampling(max_new_tokens=8)
    (first, more), cache = prompts_of(10, 6), pair[1].new_cache(1, 20)
    (answer,) = ask(language, [first], sampling, cache=cache)
    assert cache.length == 10 + 7  # the last token was never shown
    second = torch.cat([first, torch.tensor(answer.ids), more])
    scratch = ask(language, [second], sampling)
    shown = counted(language, monkeypatch)
    assert ask(language, [second], sampling, cache=cache) == scratch
    assert shown == [1 + 6] + [1] * 7 and cache.room >= len(second) + 7


def test_a_cache_is_cropped_to_what_the_next_prompt_shares(pair, monkeypatch):
    language, sampling = pair[1], Sampling(max_new_tokens=8)
    (first, other), cache = prompts_of(10, 6), pair[1].new_cache(1, 40)
    ask(language, [first], sampling, cache=cache)
    second = torch.cat([first[:4], other])
    scratch = ask(language, [second], sampling)
    shown = counted(language, monkeypatch)
    assert ask(language, [second], sampling, cache=cache.crop(4)) == scratch and shown[0] == 6
    assert ask(language, [second], sampling, cache=cache.crop(10)) == scratch and shown[8] == 1  # the last token is asked again


def test_one_cache_serves_prompts_that_begin_alike(pair):
    language, sampling = pair[1], Sampling(max_new_tokens=8, repetition_penalty=1.2)
    start, *rest = prompts_of(20, 3, 9, 1)
    cache = language.new_cache(1, 20)
    with torch.inference_mode():
        language(start[None], cache=cache)
    prompts = [torch.cat([start, end]) for end in rest]
    assert ask(language, prompts, sampling, cache=cache) == ask(language, prompts, sampling)


def test_no_prompt_no_answer(pair):
    assert generate(pair[1], [], [], Sampling()) == []


@pytest.mark.parametrize(
    "lengths, keywords, error, message",
    [
        ([3, 96], {}, DataError, "prompt 1: has 96 tokens, which leaves no room for an answer in the model's context_length 96"),
        ([3, 0], {}, DataError, "prompt 1 is empty"),
        (
            [3],
            {"eos_token_ids": (2, VOCAB)},
            ConfigError,
            f"eos_token_ids: [{VOCAB}] are outside the model's vocabulary (vocab_size {VOCAB})",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused(pair, lengths, keywords, error, message):
    with pytest.raises(error) as caught:
        ask(pair[1], prompts_of(*lengths), Sampling(**keywords))
    assert message in str(caught.value)


def test_beams_do_not_take_a_cache_and_ids_must_be_as_many_as_vectors(pair):
    (prompt,), language = prompts_of(4), pair[1]
    with pytest.raises(ConfigError, match="num_beams: beam search with 2 beams cannot use a given cache"):
        ask(language, [prompt], Sampling(num_beams=2), cache=language.new_cache(1, 40))
    with pytest.raises(DataError, match="give one id for each vector"):
        generate(language, [language.embed(prompt)], [prompt[1:]], Sampling())

"""Choice of the next token against transformers' processors; draws depend on their row only."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from zoo.errors import ConfigError
from zoo.language.decoding.sampling import (
    Sampling,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    mark_seen,
    penalise_repetition,
    uniforms,
    warp,
)


@pytest.fixture
def scores():
    return torch.randn(5, 97) * 3


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_equals_transformers(scores, penalty):
    ids = torch.randint(97, (5, 20))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    assert torch.equal(penalise_repetition(scores, mark_seen(list(ids), 97, ids.device), penalty), expected)


def test_placeholders_are_no_tokens_that_were_seen():
    assert mark_seen([torch.tensor([3, -200, -201])], 5, torch.device("cpu")).tolist() == [[False, False, False, True, False]]


@pytest.mark.parametrize("k", [1, 5, 96, 97, 500])
def test_top_k_equals_transformers(scores, k):
    scores[0, :50] = 1.0  # equal scores at the border
    assert torch.equal(keep_top_k(scores, k), TopKLogitsWarper(k)(None, scores))


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_equals_transformers(scores, p):
    scores[0] = 0.0
    assert torch.equal(keep_top_p(scores, p), TopPLogitsWarper(p)(None, scores))


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 1.0])
def test_min_p_equals_transformers(scores, p):
    assert torch.equal(keep_min_p(scores, p), MinPLogitsWarper(p)(None, scores))


def test_all_steps_together_stand_in_the_order_of_transformers(scores):
    sampling = Sampling(temperature=0.6, top_k=40, top_p=0.8, min_p=0.02)
    theirs = LogitsProcessorList([TemperatureLogitsWarper(0.6), TopKLogitsWarper(40), TopPLogitsWarper(0.8), MinPLogitsWarper(0.02)])
    found = warp(scores, sampling)
    assert torch.equal(found, theirs(None, scores))
    assert (found.isfinite().sum(1) < 40).all() and (found.isfinite().sum(1) > 1).any()  # every step had something to drop


def test_draws_have_the_probabilities_of_the_scores():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    numbers = (torch.arange(1000) + 0.5) / 1000  # a fine comb in place of chance
    tokens = draw(probabilities.log().expand(1000, 4), numbers.double())
    assert tokens.bincount(minlength=4).tolist() == [500, 0, 300, 200]


@pytest.mark.parametrize("number, token", [(0.0, 1), (1 - 2**-53, 3)])
def test_the_smallest_and_the_largest_number_draw_possible_tokens(number, token):
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert draw(scores, torch.tensor([number], dtype=torch.float64)).tolist() == [token]


def test_a_rows_numbers_depend_on_seed_and_row_alone_and_more_steps_add_to_them():
    numbers = uniforms(7, [0, 1, 2, 3], 20)
    assert torch.equal(uniforms(7, [3], 50)[0, :20], numbers[3]) and torch.equal(uniforms(7, [2, 0], 5), numbers[[2, 0], :5])
    assert len({*numbers[:, 0].tolist(), *uniforms(8, [0, 1, 2, 3], 1)[:, 0].tolist()}) == 8


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"max_new_tokens": 0}, "max_new_tokens: 0; allowed is 1 or more"),
        ({"max_new_tokens": True}, "max_new_tokens: True"),
        ({"temperature": -0.1}, "temperature: -0.1; allowed is 0"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k: 0; allowed is 1 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p: 0.0; allowed is above 0, up to 1"),
        ({"temperature": 1.0, "min_p": 1.5}, "min_p: 1.5; allowed is 0 to 1"),
        ({"top_p": 0.9}, "top_p: 0.9 has no effect at temperature 0"),
        ({"top_k": 5}, "top_k: 5 has no effect at temperature 0"),
        ({"num_beams": 0}, "num_beams: 0"),
        ({"num_beams": 2, "temperature": 1.0}, "num_beams: 2 beams do not go with temperature"),
        ({"length_penalty": 2.0}, "length_penalty: 2.0 has no effect without beams"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: 0.0; allowed is above 0"),
        ({"seed": -1}, "seed: -1; allowed is 0 or more"),
        ({"eos_token_ids": (3, -1)}, "eos_token_ids: (3, -1); allowed is a tuple"),
        ({"padding_side": "lft"}, "padding_side: there is no 'lft'; did you mean 'left'"),
    ],
)
def test_what_is_not_allowed_or_has_no_effect_is_refused_with_its_key(keywords, message):
    with pytest.raises(ConfigError) as caught:
        Sampling(**keywords)
    assert message in str(caught.value)

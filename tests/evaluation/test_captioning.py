"""Captions against scores computed by hand."""

import math
import sys

import pytest

import zoo
from zoo.evaluation.captioning import Captioning, caption_scores, words_of


def test_words_are_split_and_punctuation_left_out():
    assert words_of("A dog's ball, red - isn't it?") == "a dog's ball red isn't it"


def test_equal_captions_score_one_and_disjoint_ones_nothing():
    references = [["a red ball on the grass"], ["two dogs run over the sand"], ["one green tree in a field"]]
    perfect = caption_scores([several[0].upper() + "!" for several in references], references)
    assert perfect["bleu_4"] == pytest.approx(1) and perfect["rouge_l"] == pytest.approx(1) and perfect["cider"] == pytest.approx(10)
    nothing = caption_scores(["xyzzy plugh foo bar"] * 3, references)
    assert nothing["rouge_l"] == nothing["cider"] == 0 and nothing["bleu_4"] < 1e-6


def test_bleu_and_rouge_are_those_computed_by_hand():
    # "a b c d e" against "a b c d f": precisions 4/5, 3/4, 2/3, 1/2, equal lengths: (0.2)^(1/4); longest common subsequence 4 of 5
    found = caption_scores(["a b c d e"], [["a b c d f"]])
    assert found["bleu_4"] == pytest.approx(math.pow(4 / 5 * 3 / 4 * 2 / 3 * 1 / 2, 1 / 4), abs=1e-6)
    assert found["rouge_l"] == pytest.approx(4 / 5)


def test_ciders_weight_of_words_that_every_item_has_is_nothing():
    # "the" is in the references of both items (log(2 / 2) = 0), so that one word is all that tells them apart; of the four lengths of
    # word groups only the first has any weight: cosine 1 for the first item, 0 for the second, mean (1 + 0) / 2 / 4 * 10
    found = caption_scores(["cat", "cat"], [["cat"], ["dog"]])
    assert found["cider"] == pytest.approx(10 / 4 / 2)


def test_captions_of_a_system_are_scored_and_shown(tmp_path, talking):
    source = talking.Squares(answers=["a dark square on the page", "a square"])
    model = talking.Talker(lambda prompt: "a dark square on the page. ")
    result = Captioning(limit=5, batch_size=2, num_beams=3)(model, source, "test")
    assert result.metrics["bleu_4"] == pytest.approx(1) and result.metrics["rouge_l"] == pytest.approx(1)
    assert result.num_items == 5 and result.details["references_per_item"] == 2 and result.details["num_beams"] == 3
    assert result.details["chance_bleu_4"] == pytest.approx(1)  # all items have the same references here
    assert model.options[0] == {"max_new_tokens": 32, "num_beams": 3, "batch_size": 2}
    assert result.draw(tmp_path) == "report.html" and "a dark square" in (tmp_path / "report.html").read_text()


def test_examples_and_the_beginning_of_a_caption_stand_before_what_is_said(talking):
    model = talking.Talker(lambda prompt: " a dark square")
    result = Captioning(num_shots=2, prompt="An image of ", stop=["\n"], limit=4)(model, talking.Squares(4), "test")
    prompt = model.asked[3]
    assert [m.role for m in prompt.messages] == ["user", "assistant"] * 3 and len(prompt.images) == 3
    assert prompt.messages[-1].text == "An image of" and all(m.text.startswith("An image of ") for m in prompt.messages[1:-1:2])
    assert model.options[0]["stop"] == ("\n",) and result.answers[0].answer == "a dark square"
    assert result.details["num_shots"] == 2 and result.details["prompt"] == "An image of"
    # the references are yes, one, yes, three: half the split away, yes is said of yes, and one of three
    assert result.details["chance_rouge_l"] == pytest.approx(0.5)
    again = talking.Talker(lambda prompt: "")
    Captioning(num_shots=2, prompt="An image of", batch_size=3)(again, talking.Squares(4), "test")
    assert again.asked[3].messages == prompt.messages


def test_missing_scorers_are_named_before_the_work(monkeypatch, talking):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(zoo.ConfigError, match=r"needs pycocoevalcap; install it with: zoo install language"):
        Captioning().check(talking.Talker(lambda prompt: ""), talking.Squares())
    with pytest.raises(zoo.ConfigError, match="kinds: 'caption' is one string"):
        Captioning(kinds="caption")
    with pytest.raises(zoo.ConfigError, match="num_shots: -1; allowed is 0 or more"):
        Captioning(num_shots=-1)

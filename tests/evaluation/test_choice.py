"""Answers chosen by likelihood: prompts as they are sent, figures by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from zoo.evaluation.choice import Choice, split_answer
from zoo.processors.chat.messages import Conversation, Message
from zoo.types import Sample, Source, Split


class Scorer:
    """Stub that scores an answer by the function ``says`` of prompt and answer, and records its prompts."""

    encoders = {}

    name, device, processor = "scorer", torch.device("cpu"), None

    def __init__(self, says):
        self.says, self.asked, self.described = says, [], []
        self.head = SimpleNamespace(verbs=("score", "generate"))

    def score(self, prompts, answers, *, batch_size, with_end):
        self.asked += list(zip(prompts, answers, strict=True))
        return torch.tensor([float(self.says(prompt, answer)) for prompt, answer in zip(prompts, answers, strict=True)])

    def generate(self, prompts, **options):
        self.described += prompts
        return [f"brightness {brightness(prompt)}" for prompt in prompts]


def brightness(prompt):
    return int(prompt.images[-1].mean()) if prompt.images else -1


@pytest.fixture
def yes_or_no(talking):
    """Questions about dark squares: 4 of 6 (0 2 4 10) are dark, and the answer "yes" is right for these."""
    return lambda says, **options: run(Scorer(says), talking.Squares(), labels=["yes", "no"], kinds=["dark"], **options)


def run(model, source, **options):
    return Choice(**options)(model, source, "test"), model


def test_figures_are_those_counted_by_hand(yes_or_no):
    result, model = yes_or_no(lambda prompt, answer: {"yes": -1.0, "no": -3.0}[answer])
    assert result.metrics == pytest.approx({"accuracy": 4 / 6, "chance": 1 / 2})
    assert result.details["nats_of_the_right_answer"] == pytest.approx((4 * 1 + 2 * 3) / 6) and result.num_items == 6
    assert [answer for _, answer in model.asked[:2]] == ["yes", "no"] and model.asked[0][0].messages[-1].text == "<image>\nIs it dark?"
    assert yes_or_no(lambda prompt, answer: 0.0)[0].metrics["accuracy"] == pytest.approx(0.5)  # all alike: at chance


def test_a_shared_beginning_of_the_answers_does_not_count(yes_or_no):
    said = {"It says": -5.0, "It says yes": -6.0, "It says no": -8.0}
    result, model = yes_or_no(lambda prompt, answer: said[answer], prompt="It says ")
    assert result.metrics["accuracy"] == pytest.approx(4 / 6) and result.details["nats_of_the_right_answer"] == pytest.approx(10 / 6)


def test_log_probability_for_each_character_where_it_is_asked_for(yes_or_no):
    # yes -3.3 / 3 = -1.1, no -2.4 / 2 = -1.2: the longer one wins by its characters only
    says = lambda prompt, answer: {"yes": -3.3, "no": -2.4}[answer]  # noqa: E731
    assert yes_or_no(says)[0].metrics["accuracy"] == pytest.approx(2 / 6)
    assert yes_or_no(says, normalise="characters")[0].metrics["accuracy"] == pytest.approx(4 / 6)


def sees(prompt, answer):
    return float((answer == "yes") == (0 <= brightness(prompt) < 50))


@pytest.mark.parametrize("how, expected", [("blank", 2 / 6), ("left_out", 2 / 6)])
def test_without_the_picture_it_is_scored_again_beside(how, expected, yes_or_no):
    result, _ = yes_or_no(sees, blind=how)  # grey is 128, not dark: "no", right for 6 and 8
    assert result.metrics == pytest.approx({"accuracy": 1, "chance": 0.5, "blind_accuracy": expected})
    assert result.answers[0].blind == "no" and result.details["blind_nats_of_the_right_answer"] == pytest.approx(-2 / 6)


def test_examples_are_asked_and_answered_as_the_question_is(talking):
    digits = zoo.assembly.build.build_part("source", {"name": "digits"}, "data.source")
    _, model = run(Scorer(lambda *_: 0.0), digits, question="Which digit?", prompt="It is", num_shots=2, limit=3)
    prompt = model.asked[0][0]
    assert [m.text for m in prompt.messages[::2]] == ["<image>\nWhich digit?"] * 3 and len(prompt.images) == 3
    assert all(m.text.removeprefix("It is ") in digits.class_names for m in prompt.messages[1::2])
    assert [answer for _, answer in model.asked[:10]] == [f"It is {name}" for name in digits.class_names]
    assert run(Scorer(lambda *_: 0.0), digits, limit=3)[0].metrics == pytest.approx({"accuracy": 0.1, "chance": 0.1})


def test_descriptions_stand_before_the_question_and_the_figure_without_them_beside(yes_or_no):
    told = {"yes": "below the middle", "no": "above it"}
    result, model = yes_or_no(
        lambda prompt, answer: (answer == "yes") * (1 if "yes: below" in prompt.messages[-1].text else -1),
        question="Dark?",
        descriptions=told,
    )
    assert model.asked[0][0].messages[-1].text == "<image>\nyes: below the middle\nno: above it\nDark?"
    assert result.metrics == pytest.approx({"accuracy": 4 / 6, "chance": 0.5, "plain_accuracy": 2 / 6})


def test_thoughts_of_the_picture_stand_before_the_question(yes_or_no):
    result, model = yes_or_no(lambda prompt, answer: 0.0, rationale="Introduce this picture in detail:", limit=12)
    assert model.described[1].messages[-1].text == "<image>\nIntroduce this picture in detail:"
    texts = [message.text for message in next(p for p, _ in model.asked if len(p.messages) == 3 and brightness(p) == 20).messages]
    assert texts[1:] == ["brightness 20", "Is it dark?"]
    assert result.answers[1].rationale == "brightness 20" and "plain_accuracy" in result.metrics


class Documents(Source, Split):
    modalities, splits = ("image", "conversation"), ("test",)

    def __init__(self, texts):
        self.texts = texts

    def split(self, name):
        return self

    def __len__(self):
        return len(self.texts)

    def sample(self, index, generator=None):
        images = (np.full((4, 4), index, np.uint8),) * 2
        text = f"See <image> and <image> {self.texts[index]}"
        return Sample(str(index), {"conversation": Conversation((Message("document", text),), images, id=str(index))})


def test_a_document_is_asked_for_the_words_behind_its_last_picture_among_those_of_others():
    source = Documents(["a red hat on a chair", "two dogs", "a red hat on a dog", "rain", "two dogs"])
    right = lambda prompt, answer: answer == source.texts[brightness(prompt)][: len(answer)]  # noqa: E731
    result, model = run(Scorer(right), source, others=2, max_words=4)
    assert result.metrics == pytest.approx({"accuracy": 1, "chance": 1 / 3}) and len(model.asked) == 15
    prompt, answers = model.asked[0][0], [answer for _, answer in model.asked[:3]]
    assert prompt.messages == (Message("document", "See <image> and <image>"),) and len(set(answers)) == 3
    assert "a red hat on" in answers and run(Scorer(right), source, others=2, max_words=4)[1].asked[0][1] == answers[0]
    with pytest.raises(zoo.DataError, match="others: 4, but the split has 3 different texts"):
        run(Scorer(right), source, others=4, max_words=4)
    with pytest.raises(zoo.DataError, match="without text after its last picture or clip"):
        split_answer(Documents([""]).sample(0))


def test_descriptions_come_from_a_file(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"two": "a curve"}))
    assert Choice(question="?", descriptions=str(tmp_path / "d.json")).descriptions == {"two": "a curve"}
    with pytest.raises(zoo.ConfigError, match="none.json: no such file"):
        Choice(question="?", descriptions=str(tmp_path / "none.json"))


def test_what_cannot_be_chosen_is_refused(classifier, talking, yes_or_no):
    with pytest.raises(zoo.ConfigError, match="needs a head with the verbs score"):
        Choice().check(classifier, talking.Squares())
    with pytest.raises(zoo.ConfigError, match="descriptions: need a question to be shown before"):
        Choice(descriptions={"a": "b"})
    with pytest.raises(zoo.ConfigError, match="descriptions: there is no label 'maybe'"):
        yes_or_no(sees, question="?", descriptions={"maybe": "b"})
    for options, said in (
        ({"labels": ["a"]}, "at least two"),
        ({"normalise": "words"}, "known: characters, none"),
        ({"blind": "blnk"}, "blank"),
    ):
        with pytest.raises(zoo.ConfigError, match=said):
            Choice(**options)
    with pytest.raises(zoo.DataError, match=r"its answer 'yes' is not among its choices \(none\)"):
        run(Scorer(sees), talking.Squares())
    with pytest.raises(zoo.DataError, match="not numbers"):
        yes_or_no(lambda *_: math.nan)

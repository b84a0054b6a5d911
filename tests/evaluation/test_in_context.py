"""In-context learning: prompts as they are sent, and figures counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from zoo.commands.display import show_evaluation
from zoo.evaluation.in_context import InContext, questions_of
from zoo.evaluation.measures.choices import credit
from zoo.processors.chat.messages import Conversation, Message
from zoo.runs.evaluate import write_result
from zoo.types import Sample, Source, Split


def picture(number):
    return np.full((4, 4), number, dtype=np.uint8)


def document(pairs, name="d", choices=()):
    text = "".join(f"<image> {word}" for _, word in pairs)
    images = tuple(picture(number) for number, _ in pairs)
    return Sample(name, {"conversation": Conversation((Message("document", text),), images, id=name)}, choices=list(choices))


class Documents(Source, Split):
    modalities, splits = ("image", "conversation"), ("test",)

    def __init__(self, samples):
        self.samples = samples

    def split(self, name):
        return self

    def __len__(self):
        return len(self.samples)

    def sample(self, index, generator=None):
        return self.samples[index]


class Copier:
    """Stub that prefers the word after an equal earlier image; without one, it scores all words equally."""

    encoders = {}

    def __init__(self):
        self.head, self.asked = SimpleNamespace(verbs=("score",)), []

    def score(self, prompts, answers, *, batch_size, with_end):
        assert not with_end
        self.asked += prompts
        return torch.tensor([self.said(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)])

    def said(self, prompt, answer):
        known = {int(prompt[i][0, 0]): prompt[i + 1] for i in range(0, len(prompt) - 1, 2)}
        return float(known.get(int(prompt[-1][0, 0])) == answer)


PAIRS = [(1, "A"), (2, "B"), (2, "B"), (1, "A")]


def test_equal_scores_share_the_credit():
    assert credit([-1.0, -3.0, -1.0], 0) == 0.5 and credit([-1.0, -3.0, -1.0], 1) == 0 and credit([-2.0, -1.0], 1) == 1
    with pytest.raises(zoo.DataError, match="not numbers"):
        credit([float("nan"), 0.0], 1)


def test_the_nearest_examples_are_shown_and_the_same_picture_is_asked_for():
    found = {question.number: question for question in questions_of(document(PAIRS), [0, 1, 3, 4])}
    assert sorted(found) == [0, 1, 3]  # there are three examples
    assert [part if isinstance(part, str) else int(part[0, 0]) for part in found[1].prompt] == [2, "B", 1]
    assert [len(found[number].prompt) for number in (0, 3)] == [1, 7] and {q.answer for q in found.values()} == {"A"}
    assert [found[number].seen for number in (0, 1, 3)] == [False, False, True] and found[0].choices == ["A", "B"]


def test_figures_are_those_counted_by_hand():
    # after 0 and 1 examples of the first document nothing is known (worth 1/2 and 1/3 of guesses), after 2 and 3 the answer is
    source = Documents([document(PAIRS), document([(5, "A"), (5, "C"), (6, "A"), (5, "C")], choices="ABC")])
    result = InContext(num_examples=[0, 1, 3])(Copier(), source, "test")
    assert {n: p.accuracy for n, p in result.curve.items()} == pytest.approx({0: (1 / 2 + 1 / 3) / 2, 1: (1 / 2 + 1 / 3) / 2, 3: 1})
    assert [p.chance for p in result.curve.values()] == pytest.approx([5 / 12] * 3) and result.num_items == 2
    assert [p.seen for p in result.curve.values()] == [0, 0, 1]
    assert result.metrics == pytest.approx(
        {"accuracy": 1, "chance": 5 / 12, "gain": 7 / 12, "accuracy@0": 5 / 12, "accuracy@1": 5 / 12, "accuracy@3": 1}
    )


def test_the_curve_is_written_drawn_and_printed(tmp_path, capsys):
    result = InContext()(Copier(), Documents([document(PAIRS)]), "test")
    write_result(result, tmp_path / "out", {"evaluation": "in_context"})
    show_evaluation(result, tmp_path / "out", as_json=False)
    said = capsys.readouterr().out
    assert (tmp_path / "out" / "in_context.png").stat().st_size > 5000 and '"examples": 2' in (
        tmp_path / "out" / "metrics.json"
    ).read_text()
    assert "chance" in said and "50.00 %" in said and [n for n in result.curve] == [0, 1, 2]


def test_words_before_the_first_picture_stay_first():
    sample = document(PAIRS)
    message = Message("document", "Name each: " + sample.inputs["conversation"].messages[0].text)
    sample.inputs["conversation"] = Conversation((message,), sample.inputs["conversation"].images)
    assert questions_of(sample, [1])[0].prompt[:1] == ["Name each:"]


def test_what_cannot_be_asked_is_refused(classifier):
    with pytest.raises(zoo.ConfigError, match="needs a head with the verbs score"):
        InContext().check(classifier, Documents([]))
    with pytest.raises(zoo.ConfigError, match="choose data=digit_documents"):
        InContext().check(Copier(), SimpleNamespace(modalities=("image", "text")))
    with pytest.raises(zoo.ConfigError, match="num_examples: -1|each 0 or more"):
        InContext(num_examples=[-1])
    with pytest.raises(zoo.DataError, match="no document has 7 pictures before"):
        InContext(num_examples=[7])(Copier(), Documents([document(PAIRS)]), "test")
    with pytest.raises(zoo.DataError, match="is not a document of pictures"):
        questions_of(document([(1, "A"), (2, "")]), [0])
    said = (Message("user", "<image> which?"), Message("assistant", "A"))
    with pytest.raises(zoo.DataError, match="is not a document of pictures"):
        questions_of(Sample("d", {"conversation": Conversation(said, (picture(1),))}), [0])
    with pytest.raises(zoo.DataError, match="its last word is 'A', its choices are"):
        questions_of(document(PAIRS, choices="XY"), [0])

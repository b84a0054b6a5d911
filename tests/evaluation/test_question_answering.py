"""Question answering with a stub system: metrics computed by hand, prompts, and report pages as a browser parses them."""

import html.parser
import json
from types import SimpleNamespace

import pytest

import zoo
from zoo.commands.display import show_evaluation
from zoo.evaluation.question_answering import QuestionAnswering
from zoo.processors.chat.messages import Conversation, Message
from zoo.runs.evaluate import write_result
from zoo.types import Sample, Source, Split

NASTY = "<script>alert(1)</script> & \"b\" 'c'"


@pytest.fixture
def evaluated(talking):
    def evaluate(answer, source=None, **options):
        model = talking.Talker(answer)
        return QuestionAnswering(**options)(model, source or talking.Squares(), "test"), model

    return evaluate


def test_figures_are_those_counted_by_hand(evaluated, talking):
    # says yes to every question: of 12 items the even ones 0 2 4 10 are dark (4 of 6), and no number is "yes"
    result, _ = evaluated(lambda prompt: "Yes.")
    assert result.metrics == {"exact_match": pytest.approx(4 / 12), "vqa_accuracy": pytest.approx(4 / 12)}
    assert result.by_kind["dark"] == {"items": 6, "exact_match": pytest.approx(4 / 6), "vqa_accuracy": pytest.approx(4 / 6)}
    assert result.by_kind["number"]["exact_match"] == 0 and result.num_items == 12
    assert evaluated(talking.right_answer)[0].metrics["exact_match"] == 1
    # the most frequent answers: "yes", right for 4 of the dark ones, and "one" (of 1 3 5 7 9 and again 1), for 2 of the numbers
    assert result.details["chance"] == pytest.approx(6 / 12)


def test_ten_references_are_votes(evaluated, talking):
    result, _ = evaluated(lambda prompt: "yes", talking.Squares(answers=["yes", "yes"] + ["no"] * 8))
    assert result.metrics == {"exact_match": 0, "vqa_accuracy": pytest.approx(0.6)}


@pytest.mark.parametrize("how", ["blank", "left_out"])
def test_the_blind_baseline_sees_nothing_and_stands_beside(how, evaluated, talking):
    result, model = evaluated(talking.right_answer, blind=how)
    blind = [prompt for prompt in model.asked if not prompt.images or int(prompt.images[0].mean()) == 128]
    assert len(blind) == 12 and all("<image>" not in p.messages[0].text for p in blind) == (how == "left_out")
    # without a picture it says yes: right for 4 dark ones; a grey one is no number and not dark: right for 2
    assert result.metrics["blind_exact_match"] == pytest.approx((4 if how == "left_out" else 2) / 12)
    assert result.metrics["exact_match"] == 1 and result.answers[1].blind in ("yes", "thirteen")


def test_examples_stand_before_the_question_with_their_pictures_and_are_always_the_same(evaluated, talking):
    _, model = evaluated(talking.right_answer, num_shots=3)
    prompt = model.asked[5]
    assert [m.role for m in prompt.messages] == ["user", "assistant"] * 3 + ["user"] and len(prompt.images) == 4
    assert int(prompt.images[-1].mean()) == 50 and prompt.messages[-1].text == "<image>\nWhich number?"
    for question, answer, image in zip(prompt.messages[::2], prompt.messages[1::2], prompt.images, strict=False):
        assert talking.right_answer(Conversation((question,), (image,))).strip(".").lower() == answer.text
    again = evaluated(talking.right_answer, num_shots=3, batch_size=5)[1].asked[5]
    assert again.messages == prompt.messages
    assert evaluated(talking.right_answer, num_shots=3, seed=1)[1].asked[5].messages != prompt.messages


def test_an_item_is_never_its_own_example(evaluated, talking):
    _, model = evaluated(talking.right_answer, talking.Squares(3), num_shots=2, shots_split="test")
    for number, prompt in enumerate(model.asked):
        assert sorted(int(image.mean()) // 10 for image in prompt.images[:-1]) == [n for n in range(3) if n != number]
    with pytest.raises(zoo.ConfigError, match="num_shots: 3 examples, but only 2 items to draw them from"):
        evaluated(talking.right_answer, talking.Squares(3), num_shots=3, shots_split="test")


def test_a_chain_of_thought_is_two_calls(evaluated, talking):
    result, model = evaluated(
        lambda p: "so dark" if len(p.messages) == 1 else "yes", talking.Squares(1), chain_of_thought=True, instruction="One word."
    )
    first, second = model.asked
    assert first.messages[-1].text == "<image>\nIs it dark?\nLet's think step by step."
    assert [m.text for m in second.messages[1:]] == ["so dark", "Therefore, the answer is\nOne word."] and len(second.images) == 1
    assert [o["max_new_tokens"] for o in model.options] == [128, 32]
    assert result.answers[0].rationale == "so dark" and result.metrics["exact_match"] == 1


def test_thoughts_of_the_picture_may_come_before_the_question(evaluated, talking):
    words = {"chain_of_thought": True, "rationale_first": True, "rationale": "Introduce this picture in detail:"}
    result, model = evaluated(lambda p: "it is <image> black" if len(p.messages) == 1 else "yes", talking.Squares(1), **words)
    first, second = model.asked
    assert first.messages[-1].text == "<image>\nIntroduce this picture in detail:"
    assert [m.text for m in second.messages[1:]] == ["it is < image> black", "Is it dark?"]  # what it says is no picture
    assert result.answers[0].rationale == "it is <image> black" and result.metrics["exact_match"] == 1
    with pytest.raises(zoo.ConfigError, match="rationale_first: true, but chain_of_thought is false"):
        QuestionAnswering(rationale_first=True)


def test_thoughts_that_are_empty_leave_one_question(evaluated, talking):
    _, model = evaluated(lambda p: "", talking.Squares(1), chain_of_thought=True)
    assert [m.text for m in model.asked[1].messages] == ["<image>\nIs it dark?\nLet's think step by step.\nTherefore, the answer is"]


def test_options_of_generation_are_handed_on(evaluated, talking):
    _, model = evaluated(talking.right_answer, instruction="Short.", stop=["\n"], num_beams=2, max_new_tokens=5, batch_size=7, limit=7)
    assert model.options == [{"max_new_tokens": 5, "num_beams": 2, "stop": ("\n",), "batch_size": 7}]
    assert model.asked[0].messages[-1].text.endswith("?\nShort.")


def test_a_limit_keeps_every_kind_and_kinds_choose(evaluated, talking):
    result, _ = evaluated(talking.right_answer, talking.Squares(400), limit=100)
    assert result.num_items == 100 and min(row["items"] for row in result.by_kind.values()) > 25
    only, _ = evaluated(talking.right_answer, kinds=["dark"])
    assert {a.kind for a in only.answers} == {"dark"} and only.by_kind == {}


def test_what_cannot_be_asked_is_refused(classifier, evaluated, talking):
    with pytest.raises(zoo.ConfigError, match="needs a head with the verbs generate"):
        QuestionAnswering().check(classifier, talking.Squares())
    with pytest.raises(zoo.ConfigError, match="the source gives image, but answers are compared with texts"):
        QuestionAnswering().check(talking.Talker(talking.right_answer), SimpleNamespace(modalities=("image",)))
    with pytest.raises(zoo.ConfigError, match="kinds: there is no 'darkk'; did you mean 'dark'"):
        QuestionAnswering(kinds=["darkk"]).check(talking.Talker(talking.right_answer), talking.Squares())
    with pytest.raises(zoo.ConfigError, match="blind: there is no 'blnk'"):
        QuestionAnswering(blind="blnk")
    with pytest.raises(zoo.DataError, match="item 3: cannot be read"):
        evaluated(talking.right_answer, talking.Squares(fault=3))
    with pytest.raises(zoo.DataError, match="the split is empty"):
        evaluated(talking.right_answer, talking.Squares(0))


@pytest.fixture
def tolerant(talking):
    class Tolerant(talking.Squares):
        def split(self, name):
            split = super().split(name)
            split.max_bad_share = 0.5
            return split

    return Tolerant


def test_bad_items_are_left_out_where_the_source_tolerates_them(evaluated, talking, tolerant):
    result, _ = evaluated(talking.right_answer, tolerant(fault=3))
    assert result.num_items == 11 and result.details["skipped"] == 1 and "item 3: cannot be read" in str(result.details["skipped_examples"])
    with pytest.raises(zoo.DataError, match="no item that can be used .*item 0: cannot be read"):
        evaluated(talking.right_answer, tolerant(1, fault=0))


def test_bad_items_of_a_batch_are_left_out_once_and_the_rest_is_asked_one_by_one(talking, tolerant):
    class Refusing(talking.Talker):
        def generate(self, prompts, **options):
            if any(int(prompt.images[-1].mean()) == 70 for prompt in prompts):
                raise zoo.DataError("item 7: no picture")
            return super().generate(prompts, **options)

    model, told = Refusing(talking.right_answer), []
    result = QuestionAnswering(batch_size=5)(model, tolerant(), "test", advance=told.append)
    assert result.num_items == len(result.answers) == 11 and result.metrics["exact_match"] == 1
    assert told == [5, 5, 2] and result.details["skipped"] == 1 and len(model.asked) == 11


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs).get("class")))
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


class Nasty(Source):
    modalities, kinds = ("conversation", "image"), []

    def split(self, name):
        import numpy as np

        said = (Message("user", f"<image><audio><audio>\n{NASTY}"), Message("assistant", NASTY))
        clip = np.zeros(160, dtype=np.float32)  # alone, and with a rate of its own
        conversation = Conversation(said, (np.zeros((8, 8), dtype=np.uint8),), (clip, (clip, 8000)), id=NASTY)

        class One(Split):
            def __len__(self):
                return 1

            def sample(self, index, generator=None):
                return sample

        sample = Sample(NASTY, {"conversation": conversation}, answers=[NASTY], kind=NASTY)
        return One()


def test_the_page_stands_alone_and_what_people_wrote_stays_text(tmp_path, evaluated):
    result, _ = evaluated(lambda prompt: NASTY, Nasty(), blind="blank")
    result.draw(tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.text.count(NASTY) == 5 and "script" not in {tag for tag, _ in page.tags}  # kind, question, two answers, reference
    assert ("article", "card right") in page.tags and page.tags.count(("audio", None)) == 2 and ("img", None) in page.tags
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    row = json.loads((tmp_path / "answers.jsonl").read_text(encoding="utf-8"))
    assert row["question"] == row["answer"] == row["blind"] == NASTY and row["exact_match"] == 1


def test_pictures_of_some_are_shown_and_every_answer_is_written(tmp_path, evaluated, talking):
    result, _ = evaluated(talking.right_answer, talking.Squares(50), examples=10)
    result.draw(tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert sum(tag == "img" for tag, _ in page.tags) == 10 and "10 of 50 questions, 2 kinds are shown" in page.text
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 50


def test_the_terminal_shows_kinds_examples_and_figures(tmp_path, capsys, evaluated, talking):
    result, _ = evaluated(talking.right_answer, blind="left_out")
    write_result(result, tmp_path / "out", {"evaluation": "question_answering"})
    show_evaluation(result, tmp_path / "out", as_json=False)
    shown = capsys.readouterr().out
    assert "by kind" in shown and "Which number?" in shown and "blind_exact_match" in shown and "100.00 %" in shown
    show_evaluation(result, tmp_path / "out", as_json=True)
    assert json.loads(capsys.readouterr().out)["exact_match"] == 1
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["by_kind"]["dark"]["items"] == 6

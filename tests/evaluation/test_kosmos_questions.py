"""All kinds of questions for Kosmos with an untrained model: evaluations run as from the command line and report chance."""

import json

import pytest

import zoo
from zoo.assembly.compose import compose
from zoo.evaluation.measures.few_shot import examples_of, with_examples
from zoo.registry.construct import build_part
from zoo.runs.evaluate import evaluate

WORDS = ["Question: Which digit is this? Answer: seven", "what is the sentiment of the opinion? positive negative", "An image of Yes No"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    system = zoo.create_system("kosmos_nano")
    system.processor.fit([*WORDS, *(f" {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")])
    return zoo.save(system.eval(), tmp_path_factory.mktemp("kosmos") / "nano")


ASKED = {
    "in_context": (["data=digit_documents", "evaluation=in_context"], 0.5),
    "raven": (["data=raven", "evaluation=raven"], 1 / 6),
    "sentiment": (["data=rendered_text", "evaluation=choice", "+evaluation.rationale=Describe it:"], 0.5),
    "classes": (
        ["data=digits", "evaluation=choice", "+evaluation.question=Which?", "+evaluation.descriptions={two: a bow}"],
        0.1,
    ),
    "next word": (["data=digit_documents", "evaluation=choice", "+evaluation.others=3"], 0.25),
}


@pytest.mark.parametrize("name", ASKED)
def test_questions_run_from_the_command_line_with_chance_beside(name, saved, tmp_path):
    overrides, chance = ASKED[name]
    more = ["+evaluation.limit=3", f"checkpoint={saved}", f"output={tmp_path / 'out'}"]
    result, output = evaluate(compose("evaluate", [*overrides, *more]))
    assert result.metrics["chance"] == pytest.approx(chance) and 0 <= result.metrics["accuracy"] <= 1 and result.num_items == 3
    assert json.loads((output / "metrics.json").read_text())["chance"] == pytest.approx(chance)


def test_examples_and_thoughts_are_interleaved_and_answered(saved, tmp_path):
    words = ["num_shots=2", "chain_of_thought=true", "rationale_first=true", "max_rationale_tokens=4", "max_new_tokens=3", "limit=2"]
    more = [f"checkpoint={saved}", f"output={tmp_path / 'qa'}", *(f"evaluation.{word}" for word in words)]
    result, _ = evaluate(compose("evaluate", ["data=digit_questions", "evaluation=question_answering", *more]))
    assert result.num_items == 2 and 0 < result.details["chance"] <= 1 and result.answers[0].rationale is not None
    words = ["num_shots=2", "prompt=An image of", "max_new_tokens=3", "limit=2"]
    more = [f"checkpoint={saved}", f"output={tmp_path / 'caption'}", *(f"+evaluation.{word}" for word in words)]
    result, _ = evaluate(compose("evaluate", ["data=digits", "evaluation=captioning", *more]))
    assert result.num_items == 2 and "chance_cider" in result.details


def test_the_model_is_shown_each_example_with_its_picture_and_answer(saved):
    source = build_part("source", {"name": "digit_questions", "kinds": ["sum"]}, "data.source")
    shots = examples_of(source, "test_seen", 2, "train", 0)
    part = zoo.load(saved).processor["conversation"]
    question = source.split("test_seen").sample(0).inputs["conversation"].question()
    text = "".join(piece.text for piece in part.render(with_examples(question, shots(0)), for_generation=True))
    examples = [sample.messages for sample in shots(0)]
    asked = question.messages[0].text.removeprefix("<image>").strip()
    expected = "".join(f"<image> Question: {q.text.removeprefix('<image>').strip()} Answer: {a.text}" for q, a in examples)
    assert text == f"<s>{expected}<image> Question: {asked} Answer:"

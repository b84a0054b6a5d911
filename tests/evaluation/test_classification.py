"""Accuracy of a classifier head, and how a run finds its evaluation."""

import json
import sys

import pytest
import torch
from sklearn.metrics import accuracy_score

import zoo
from zoo.assembly.compose import compose
from zoo.commands.cli import main
from zoo.evaluation.classification import Classification, columns_of
from zoo.runs.evaluate import evaluate
from zoo.runs.evaluation_results import kept_results
from zoo.runs.evaluation_setup import make_evaluation
from zoo.runs.train import train
from zoo.training.log import read_lines

SMALL = [
    "training.max_steps=4",
    "training.batch_size=15",
    "training.checkpoint_every=2",
    "training.evaluate_every=2",
    "training.log_every=1",
]


def test_accuracy_is_that_of_the_verb_logits(classifier, source):
    result = Classification(batch_size=100)(classifier, source, "test")
    samples = [source.split("test").sample(i) for i in range(359)]
    guesses = classifier.logits([sample.inputs["image"] for sample in samples]).argmax(1)
    assert result.metrics["top1"] == pytest.approx(accuracy_score([sample.label for sample in samples], guesses))
    assert result.num_items == 359 and result.class_names == source.class_names


def test_classes_in_another_order_are_put_in_the_datas(classifier, source):
    expected = Classification(limit=100)(classifier, source, "test")
    head = {"name": "classifier", "class_names": source.class_names[::-1]}
    reversed_ = zoo.create_system({"encoders": {"image": "vit_nano"}, "head": head})
    state = classifier.state_dict()
    state |= {name: state[name].flip(0) for name in ("head.linear.weight", "head.linear.bias")}
    reversed_.load_state_dict(state)
    found = Classification(limit=100)(reversed_, source, "test")
    assert found.metrics == expected.metrics and torch.equal(found.confusion, expected.confusion)


def test_columns_are_found_by_name():
    assert columns_of(["cat", "dog"], 2, ["dog", "cat"]) == [1, 0] and columns_of(None, 3, ["a", "b", "c"]) == [0, 1, 2]
    for known, number in ((["cat", "cow"], 2), (["cat", "dog", "cow"], 3), (None, 3)):
        with pytest.raises(zoo.ConfigError, match=f"the head has {number} classes, which differ from the 2 classes of the data"):
            columns_of(known, number, ["dog", "cat"])


def test_models_that_cannot_are_refused(clip, source):
    with pytest.raises(zoo.ConfigError, match="'classification' needs a head with the verbs logits.*evaluation=zero_shot"):
        Classification()(clip, source, "test")


def test_items_without_label_or_that_cannot_be_read_end_it_loudly(classifier, unlabelled, unreadable):
    with pytest.raises(zoo.DataError, match="has a label"):
        Classification()(classifier, unlabelled, "test")
    with pytest.raises(zoo.DataError, match="item b.png: cannot be read"):
        Classification()(classifier, unreadable, "test")


def test_a_run_takes_the_heads_own_evaluation_and_mixes_only_in_training(tmp_path):
    words = ["system=classifier_vit_nano", "data.mix={mixup: 0.8, cutmix: 1.0}", "evaluation.limit=40", *SMALL]
    train(compose("train", [*words, f"run_dir={tmp_path / 'run'}"]))
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "evaluation"]
    assert [line["step"] for line in lines] == [2, 4] and {"top1", "top5", "mean_per_class"} <= set(lines[0])
    for evaluation in ({}, {"evaluation": {"name": "knn_probe", "k": 3}}):
        result, output = evaluate({"checkpoint": str(tmp_path / "run"), **evaluation})
        name = evaluation.get("evaluation", {"name": "classification"})["name"]
        written = json.loads((output / "metrics.json").read_text())
        assert output.name == f"{name}_digits_test_{written['fingerprint'][:8]}" and written["evaluation"] == name
        assert written["top1"] == result.metrics["top1"] and written["split"] == "test" and written["details"] == result.details
    (kept,) = (tmp_path / "run" / "evaluation").glob("classification_*/confusion.png")  # the second left the first alone
    assert kept.is_file() and json.loads((kept.parent / "metrics.json").read_text())["items"] == 40
    fewer, _ = evaluate(compose("evaluate", [f"checkpoint={tmp_path / 'run'}", "evaluation.limit=30"]))
    assert fewer.num_items == 30, "a keyword without a name changes the run's evaluation"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation=classification"], "evaluation: 'classification' needs"),
        (["data.mix={mixup: 0.8}"], "data.mix: .* reads image, text"),
        (["system=classifier_vit_nano", "data.mix={mixup: -1}"], "data.mix.mixup: -1.0; allowed"),
        (["system=classifier_vit_nano", "evaluation=zero_shot"], "choose evaluation=classification"),
        (["system=classifier_vit_nano", "evaluation.limits=3"], "evaluation.limits: .*did you mean 'limit'"),
        (["objective.scale=3"], "objective.scale: no objective is chosen; say which with objective=NAME"),
    ],
)
def test_what_does_not_fit_is_found_before_training(tmp_path, words, message):
    with pytest.raises(zoo.ConfigError, match=message):
        train(compose("train", [*words, *SMALL, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_keywords_without_a_name_need_a_head_with_an_evaluation():
    with pytest.raises(zoo.ConfigError, match="evaluation.limit: the model has no default evaluation; add evaluation=NAME"):
        make_evaluation({"limit": 3}, zoo.create_model("vit_nano"))


def test_results_are_kept_for_each_data_and_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # results of bundled models go to runs/NAME
    data = {"source": {"name": "digits"}, "test_split": "test"}
    cases = [(data, 20), (data, 30), ({**data, "test_split": "validation"}, 20), ({**data, "num_workers": 2}, 20)]
    folders = [
        evaluate({"checkpoint": "clip_vit_nano", "data": each, "evaluation": {"name": "zero_shot", "limit": limit}})[1]
        for each, limit in cases
    ]
    assert len(set(folders)) == 3 and folders[3] == folders[0]  # the number of workers changes no figure
    assert all(folder.is_relative_to("runs/clip_vit_nano/evaluation") for folder in folders)
    assert json.loads((folders[1] / "environment.json").read_text())["command"] == sys.argv
    assert [result.items for result in kept_results(folders[0].parents[1])] == [
        json.loads((f / "metrics.json").read_text())["items"] for f in sorted(set(folders))
    ]


def test_several_evaluations_of_one_model_are_one_command(tmp_path, capsys):
    names = ["zero_shot", "linear_probe", "knn_probe", "retrieval"]
    words = ["checkpoint=clip_vit_nano", "data=digits", f"output={tmp_path}"]
    parts = "zero_shot,{name: linear_probe, C: 1.0, train_limit: 200},knn_probe,retrieval"
    assert main(["evaluate", "--json", *words, f"evaluations=[{parts}]"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["evaluation"] for line in lines] == names and lines[1]["train_items"] == 200
    assert all(line["top1"] > 0.9 for line in lines[:3]) and "mean_recall" in lines[3]
    alone, output = evaluate(compose("evaluate", ["checkpoint=clip_vit_nano", "data=digits", f"output={tmp_path / 'alone'}"]))
    assert lines[0]["top1"] == alone.metrics["top1"], "the head's own evaluation is zero_shot"
    assert json.loads((tmp_path / "zero_shot" / "metrics.json").read_text()) == json.loads((output / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluations=[zero_shot]", "evaluation=zero_shot"], "evaluation is set too; give one of the two"),
        (["evaluations=[]"], "evaluations: got []; give a list of different names"),
        (["evaluations=zero_shot"], "evaluations: got 'zero_shot'; give a list"),
        (["evaluations=[zero_shot,zero_shot]"], "give a list of different names"),
        (["evaluations=[zero_shot,linear_prob]"], "there is no evaluation 'linear_prob'; did you mean 'linear_probe'"),
        (["evaluations=[zero_shot,{name: linear_probe, c: 1}]"], "evaluations.linear_probe.c: "),
    ],
)
def test_lists_of_evaluations_that_cannot_be_are_refused_before_any_work(tmp_path, capsys, words, message):
    assert main(["evaluate", "checkpoint=clip_vit_nano", "data=digits", f"output={tmp_path / 'found'}", *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "found").exists()

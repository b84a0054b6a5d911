"""Every evaluation keeps every rule of ``zoo.testing.check_evaluation`` on a small system."""

import copy
import math

import pytest
import torch
from emulated_cuda import emulated_cuda

from zoo.registry import find_part, part_names
from zoo.testing import ContractError, check_evaluation
from zoo.types import Evaluation, Result


@pytest.mark.parametrize("name", part_names("evaluation"))
def test_each_evaluation_keeps_the_contract(name, parts):
    model, source, keywords = parts[name]()
    check_evaluation(find_part("evaluation", name)(**keywords), model, source, source.splits[-1])


@pytest.mark.parametrize("name", part_names("evaluation"))
def test_each_evaluation_runs_in_half_precision(name, parts):
    model, source, keywords = parts[name]()
    found = find_part("evaluation", name)(**keywords)(copy.deepcopy(model).to(torch.bfloat16), source, source.splits[-1])
    assert found.metrics and all(math.isfinite(value) for value in found.metrics.values())


@pytest.mark.parametrize("name", part_names("evaluation"))
def test_each_evaluation_runs_on_an_emulated_gpu(name, parts):
    """Generation, transcription, synthesis and embedding too: the evaluations call them. No tensor is on another device."""
    model, source, keywords = parts[name]()
    # The detector of speech runs on the CPU; its weights, once loaded, would have to be swapped while the emulation is on.
    silent = {"vad_filter": "energy"} if name == "asr" else {}
    evaluation = find_part("evaluation", name)(**keywords, **silent)
    with emulated_cuda():
        found = evaluation(copy.deepcopy(model).to("cuda"), source, source.splits[-1])
    assert found.metrics and all(math.isfinite(value) for value in found.metrics.values())


class Figures(Result):
    num_items, title, details = 3, "three", {}

    def __init__(self, metrics, name="f.txt"):
        self.metrics, self.name = metrics, name

    def draw(self, folder):
        (folder / "f.txt").write_text("")
        return self.name


class Mine(Evaluation):
    monitor = "accuracy"

    def __init__(self, *, result=None):
        self.result = Figures({"accuracy": 0.5}) if result is None else result

    def check(self, model, source):
        pass

    def __call__(self, model, source, split, *, advance=lambda items: None):
        return copy.copy(self.result)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"accuracy": 0.5}, "a call gives a zoo.types.Result, but it gives a dict"),
        (Figures({}), "a result has metrics, but there are none"),
        (Figures({"accuracy": 50.0}), r"metrics are shares from 0 to 1, but accuracy is 50.0 .*put 'accuracy' into numbers"),
        (Figures({"accuracy": float("nan")}), "metrics are numbers, but accuracy is nan"),
        (Figures({"top1": 0.5}), r"monitor is one of the metrics, but there is no 'accuracy' .expected: of \['top1'\]"),
        (Figures({"accuracy": 0.5}, "g.png"), "draw writes an image and gives its name, but there is no 'g.png'"),
    ],
)
def test_each_mistake_of_an_evaluation_is_named(result, message):
    check_evaluation(Mine(), None, None)
    with pytest.raises(ContractError, match=message):
        check_evaluation(Mine(result=result), None, None)

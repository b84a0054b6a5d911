"""Every evaluation keeps every rule of ``zoo.testing.check_evaluation`` on a small system."""

import copy
import math

import numpy as np
import pytest
import torch
from emulated_cuda import emulated_cuda

import zoo
from zoo.registry import find_part, part_names
from zoo.testing import ContractError, check_evaluation
from zoo.types import Evaluation, Result, Sample, Source, Split

TEXTS = ["forty two and more words", "seven is a number here", "one hundred and nothing else"]


class Clips(Source):
    """Noise and what is said in it."""

    modalities, splits = ("audio", "text"), ("train", "test")

    def split(self, name):
        return ClipsSplit()


class ClipsSplit(Split):
    def __len__(self):
        return 3

    def sample(self, index, generator=None):
        sound = np.random.default_rng(index).normal(size=6000).astype(np.float32) * 0.1
        return Sample(str(index), {"audio": (sound, 16000), "text": TEXTS[index]})


@pytest.fixture(scope="module")
def parts():
    """System and source of each evaluation, and keywords that keep it short."""
    made = {}

    def system(name, overrides=()):
        if (name, *overrides) not in made:
            made[name, *overrides] = zoo.create_system(name, list(overrides)).eval()
            made[name, *overrides].processor.fit([*TEXTS, "what is it? Yes no one two three"] * 3)
        return made[name, *overrides]

    def source(name, **words):
        return find_part("source", name)(**words)

    return {
        "zero_shot": lambda: (zoo.load("clip_vit_nano"), source("digits"), {"limit": 20, "cache": False}),
        "retrieval": lambda: (zoo.load("clip_vit_nano"), source("digits"), {"limit": 20}),
        "knn_probe": lambda: (zoo.load("clip_vit_nano"), source("digits"), {"limit": 20, "train_limit": 40}),
        "linear_probe": lambda: (zoo.load("clip_vit_nano"), source("digits"), {"C": 1.0, "limit": 20, "train_limit": 40}),
        "perplexity": lambda: (system("llava_nano"), source("digit_questions"), {"limit": 4}),
        "question_answering": lambda: (system("llava_nano"), source("digit_questions"), {"limit": 4, "max_new_tokens": 2}),
        "captioning": lambda: (system("llava_nano"), source("digit_pairs"), {"limit": 4, "max_new_tokens": 2}),
        "choice": lambda: (system("llava_nano"), source("digits"), {"limit": 4, "question": "which digit?"}),
        "in_context": lambda: (system("kosmos_nano"), source("digit_documents"), {"limit": 2, "num_examples": [0, 1]}),
        "raven": lambda: (system("kosmos_nano"), source("raven", size=16, layouts=["2x2"]), {"limit": 2}),
        "masked_lm": lambda: (system("bert_pretraining_nano", ["system.head.sequence=null"]), Clips(), {"limit": 3}),
        "asr": lambda: (system("whisper_nano"), Clips(), {"limit": 2, "temperatures": [0.0]}),
        "tts": lambda: (system("tacotron2_nano"), Clips(), {"limit": 2, "max_seconds": 0.3}),
        "classification": lambda: (classifier(source("digits")), source("digits"), {"limit": 20}),
    }


def classifier(source):
    head = {"name": "classifier", "class_names": list(source.class_names)}
    return zoo.create_system({"encoders": {"image": "vit_nano"}, "head": head}).eval()


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

"""n-gram language models against nltk and the rows of the specification, and beside the perplexity of a model."""

import math

import pytest
import torch

import zoo
from zoo.evaluation.measures.ngram import NGram
from zoo.evaluation.perplexity import Perplexity
from zoo.types import Sample, Source, Split

CORPUS = [["a", "b", "c"], ["a", "c", "d", "c", "e", "f"]]
WORDS = ["a", "b", "c", "d", "e", "f", "</s>", "<s>"]
PAIRS = [("c", "a"), ("b", "a"), ("a", "<s>"), ("e", "c"), ("a", "c")]
ROWS = {  # specification ``decoders_more``, section 6, from nltk 3.10.4: p of PAIRS, perplexity of (<s> a)(a c)(c </s>)
    "none": ({"smoothing": "none"}, [0.5, 0.5, 1, 1 / 3, 0], 1.817121),
    "witten_bell": ({"smoothing": "witten_bell"}, [0.36538462, 0.28846154, 0.71794872, 0.20512821, 0.07692308], 2.5013),
    "laplace": ({"smoothing": "laplace", "vocab_size": 9}, [0.18181818, 0.18181818, 0.27272727, 0.16666667, 0.08333333], 4.946087),
    "discount .1": ({"discount": 0.1}, [0.48, 0.46, 0.955, 0.31, 0.01], 1.896132),
    "discount .75": ({"discount": 0.75}, [0.35, 0.2, 0.6625, 0.15833333, 0.075], 2.643969),
}


def padded(order):
    return [["<s>"] * (order - 1) + words + ["</s>"] * (order - 1) for words in CORPUS]


@pytest.mark.parametrize("form", ROWS)
def test_probabilities_are_those_of_the_specification(form):
    settings, expected, perplexity = ROWS[form]
    model = NGram(order=2, **settings).fit(padded(2))
    assert [model.probability(word, [before]) for word, before in PAIRS] == pytest.approx(expected, abs=1e-8)
    assert model.perplexity([(["<s>"], "a"), (["a"], "c"), (["c"], "</s>")]) == pytest.approx(perplexity, abs=1e-6)


def test_trigrams_are_those_of_the_specification():
    model = NGram(order=3, discount=0.75).fit(padded(3))
    found = [model.probability(word, context.split()) for word, context in [("c", "<s> a"), ("d", "a c"), ("b", "<s> a"), ("e", "d c")]]
    assert found == pytest.approx([0.359375, 0.359375, 0.265625, 0.359375])


@pytest.mark.parametrize("order", [2, 3])
def test_every_probability_equals_nltk(order):
    lm, preprocessing = pytest.importorskip("nltk.lm"), pytest.importorskip("nltk.lm.preprocessing")
    theirs = {
        **{"kneser_ney": lm.KneserNeyInterpolated(order, discount=0.6), "laplace": lm.Laplace(order)},
        **{"witten_bell": lm.WittenBellInterpolated(order), "none": lm.MLE(order)},
    }
    for smoothing, reference in theirs.items():
        reference.fit(*preprocessing.padded_everygram_pipeline(order, CORPUS))
        size = len(reference.vocab) if smoothing == "laplace" else None
        model = NGram(order=order, smoothing=smoothing, discount=0.6, vocab_size=size).fit(padded(order))
        contexts = [("c",), ("a",), ("f",)] if order == 2 else [("a", "c"), ("<s>", "a"), ("f", "a"), ("c", "e")]
        for context in contexts:
            for word in WORDS:
                assert model.probability(word, context) == pytest.approx(reference.score(word, context), abs=1e-12), (word, context)


@pytest.mark.parametrize("settings", [{"smoothing": "laplace"}, {"discount": 0.4}])
@pytest.mark.parametrize("context", [("a", "c"), ("f", "a"), ("never", "seen"), ("a",), ()])
def test_probabilities_of_the_vocabulary_sum_to_one(settings, context):
    model = NGram(order=3, vocab_size=10, **settings).fit(padded(3))
    words = [*WORDS, "unseen", "other"]
    assert math.fsum(model.probability(word, context) for word in words) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"order": 0}, "order: got 0"),
        ({"smoothing": "turing"}, "there is no 'turing'"),
        ({"discount": 1.0}, "discount: got 1.0"),
        ({"smoothing": "laplace"}, "vocab_size: null"),
    ],  # fmt: skip
)
def test_numbers_out_of_range_are_refused(settings, words):
    with pytest.raises(zoo.ConfigError, match=words):
        NGram(**settings)


class Texts(Source):
    modalities, splits, kinds = ("text",), ("train", "test"), []

    def split(self, name):
        class Lines(Split):
            def __len__(self):
                return 6 if name == "train" else 2

            def sample(self, index, generator=None):
                return Sample(f"line {index}", {"text": "one two three four one two three four" if index % 2 else "two one two one two"})

        return Lines()


def test_the_evaluation_shows_the_baseline_beside_the_models_perplexity():
    torch.manual_seed(0)
    system = zoo.create_system("llava_nano")
    system.processor.fit(["one two three four"] * 3)
    plain, beside = (Perplexity(ngram=order)(system.eval(), Texts(), "test") for order in (None, 3))
    assert plain.metrics == beside.metrics and "ngram_perplexity" not in plain.details
    assert beside.details["ngram_order"] == 3 and 1 < beside.details["ngram_perplexity"] < 3 < beside.metrics["perplexity"]
    assert [title for title, *_ in beside.tables] == ["baseline"]


def test_a_baseline_of_order_zero_is_refused():
    with pytest.raises(zoo.ConfigError, match="ngram: 0; allowed is 1 or more"):
        Perplexity(ngram=0)

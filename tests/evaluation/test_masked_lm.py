"""Masked-language modelling as an evaluation: its figures by hand, and a run that learns."""

import math
from collections import Counter

import pytest
import torch

import zoo
from zoo.assembly.compose import compose
from zoo.data.masking import Masking
from zoo.evaluation.masked_lm import MaskedLM
from zoo.runs.evaluate import evaluate
from zoo.runs.train import train
from zoo.sources.documents import Documents
from zoo.training.log import read_lines
from zoo.types import IGNORED, MASKED

THINGS = {"dog": "barks", "cat": "purrs", "bird": "sings", "fish": "swims", "bee": "hums", "cow": "moos"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Corpus of an easy language: the verb follows from the animal, and a document is about one animal."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(120):
        thing = list(THINGS)[number % len(THINGS)]
        text = " ".join(f"The {thing} number {(number + i) % 7} always {THINGS[thing]} at the dawn." for i in range(4))
        (folder / f"{number}.txt").write_text(text)
    return folder


def config(corpus, run_dir, *words):
    settings = ["max_steps=60", "batch_size=32", "learning_rate=5e-3", "warmup_steps=5", "evaluate_every=60", "monitor=mlm_accuracy"]
    sizes = ["context_length=48", "dim=48", "depth=2", "vocab_size=300"]
    parts = ["system=bert_pretraining_nano", "data=documents", f"data.source.path={corpus}", "data.source.pairs=next", f"run_dir={run_dir}"]
    more = [*(f"training.{word}" for word in (*settings, "log_every=1")), *(f"system.encoders.text.{word}" for word in sizes)]
    return compose("train", [*parts, *more, "data.source.split_fractions=[0.8,0.1,0.1]", *words])


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run") / "run"
    train(config(corpus, run_dir))
    return run_dir


def test_a_small_bert_learns_and_beats_the_unigrams(run):
    lines = read_lines(run / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    result, output = evaluate({"checkpoint": str(run)})
    assert result.metrics["mlm_accuracy"] > result.metrics["unigram_accuracy"] + 0.15
    assert result.details["mlm_perplexity"] < result.details["unigram_perplexity"]
    assert (output / "masked_lm.png").is_file() and "nsp_accuracy" in result.metrics


def test_the_figures_are_those_counted_by_hand(run, corpus):
    system, source = zoo.load(run), Documents(path=corpus, pairs="next", split_fractions=[0.8, 0.1, 0.1])
    found = MaskedLM(batch_size=5, seed=3, train_limit=None)(system, source, "test")
    part, hits, losses, total = system.processor["text"], 0, [], 0
    masking = Masking(tokenizer=part.tokenizer, mask_token_id=part.mask_token_id)
    counts = Counter(i for sample in samples(source, "train") for i in part.item(sample.inputs["text"]).tolist() if i > 4)
    likeliest, shares = counts.most_common(1)[0][0], math.fsum(counts.values()) + system.encoders["text"].vocab_size
    baseline = []
    for row, sample in enumerate(samples(source, "test")):
        batch = masking(system.processor.collate([sample], [system.processor.items(sample)]), [(3, row)])
        labels = batch.targets[MASKED][0]
        with torch.no_grad():
            tokens = system.encoders["text"](batch.inputs["text"], batch.masks["text"]).tokens[0]
            scores = system.head.word_logits(tokens).log_softmax(-1)
        for place in (labels != IGNORED).nonzero()[:, 0].tolist():
            token, total = int(labels[place]), total + 1
            hits += int(scores[place].argmax()) == token
            losses.append(-float(scores[place, token]))
            baseline.append((-math.log((counts[token] + 1) / shares), token == likeliest))
    assert found.details["hidden_tokens"] == total and found.num_items == len(source.split("test"))
    assert found.metrics["mlm_accuracy"] == pytest.approx(hits / total, abs=1e-6)
    assert found.details["mlm_perplexity"] == pytest.approx(math.exp(sum(losses) / total), rel=1e-4)
    assert found.details["unigram_perplexity"] == pytest.approx(math.exp(sum(loss for loss, _ in baseline) / total), rel=1e-4)
    assert found.metrics["unigram_accuracy"] == pytest.approx(sum(hit for _, hit in baseline) / total, abs=1e-6)


def samples(source, split):
    data = source.split(split)
    return [data.sample(index) for index in range(len(data))]


def test_a_trained_system_fills_masks_and_goes_to_transformers(run, tmp_path):
    import transformers

    system = zoo.load(run)
    (guesses,) = system.fill_mask("The dog number 3 always [MASK] at the dawn.")
    assert len(guesses) == 1 and sum(share for _, share in guesses[0]) <= 1 + 1e-6
    zoo.export(system, tmp_path)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    reference = transformers.BertForPreTraining.from_pretrained(tmp_path).eval()
    pair = ("The dog number 3 always [MASK] at the dawn.", "It barks.")
    words = tokenizer(*pair, return_tensors="pt")
    ids, mask = system.processor["text"]([pair])
    assert torch.equal(words["input_ids"], ids) and words["token_type_ids"].sum() > 0
    with torch.no_grad():
        theirs = reference(**words)
        ours = system.encoders["text"](ids, mask)
        torch.testing.assert_close(system.head.word_logits(ours.tokens[0]), theirs.prediction_logits[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(system.head.sequence(ours.pooled), theirs.seq_relationship_logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.masking=null"], "data.masking: null, but head BertHead learns"),
        (["data.masking.unit=word"], "data.masking.unit: there is no 'word'"),
        (["data.masking={share: 0.2}"], "data.masking.share: .* no such option"),
        (["data.source.pairs=none"], "data.source.pairs=next"),
        (["system.encoders.text.separator_id=7"], "separator_id: 7 ends a text for the encoder, but 2 for the tokenizer"),
        (["system.encoders.text.pool=none"], "reads a pooled vector"),
        (["system.processor.text.tokenizer=trained"], "has no mask symbol"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(corpus, tmp_path, words, message):
    with pytest.raises(zoo.ZooError, match=message):
        train(config(corpus, tmp_path / "run", *words))


def test_masking_for_another_head_is_refused(corpus, tmp_path):
    words = ["head@system.head=distill", "training.monitor=cosine", f"teacher={tmp_path}"]
    with pytest.raises(zoo.ConfigError, match="data.masking: hides tokens, which head Distill does not learn to predict"):
        train(config(corpus, tmp_path / "run", *words))

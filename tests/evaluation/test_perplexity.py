"""Perplexity against what transformers' own recipe gives: labels of -100, and the exponential of the mean loss."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.commands.display import show_evaluation
from zoo.evaluation.perplexity import Perplexity
from zoo.layers.splice import splice
from zoo.registry.construct import build_part
from zoo.runs.evaluate import write_result
from zoo.types import SUPERVISED, Sample, Source, Split


@pytest.fixture(scope="module")
def llava(talking):
    torch.manual_seed(0)
    system = zoo.create_system("llava_nano")
    split = talking.Squares().split("train")
    system.processor.fit([m.text for i in range(4) for m in split.sample(i).inputs["conversation"].messages] + ["one two three dark"])
    return system.eval()


def by_hand(system, samples):
    """Negative log-probabilities of the answers' tokens, one conversation at a time."""
    found = []
    for sample in samples:
        batch = system.processor.collate([sample], [system.processor.items(sample)])
        shown = {m: system.head.connectors[m](e.tokens, e.mask) for m, e in system.encode_batch(batch).items()}
        vectors = splice(batch.inputs["text"], system.head.language.embed(batch.inputs["text"]), shown)
        logits = system.head.language.logits(system.head.language(vectors, batch.masks["text"]))
        labels = batch.inputs["text"].masked_fill(~batch.targets[SUPERVISED], -100)
        found.append(F.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="none")[labels[0, 1:] != -100])
    return torch.cat(found)


@torch.no_grad()
def test_perplexity_of_answers_is_the_exponential_of_the_mean_loss(llava, talking):
    source = talking.Squares()
    result = Perplexity(batch_size=5)(llava, source, "test")
    losses = by_hand(llava, [source.split("test").sample(i) for i in range(12)])
    assert result.metrics["perplexity"] == pytest.approx(float(losses.mean().exp()), rel=1e-4)
    assert result.details == {"tokens": len(losses)} and result.num_items == 12
    dark = by_hand(llava, [source.split("test").sample(i) for i in range(0, 12, 2)])
    assert result.by_kind["dark"]["perplexity"] == pytest.approx(float(dark.mean().exp()), rel=1e-4)
    assert result.by_kind["dark"]["tokens"] + result.by_kind["number"]["tokens"] == len(losses)


def test_batches_do_not_change_figures_and_kinds_choose(llava, talking):
    whole, single = (Perplexity(batch_size=size)(llava, talking.Squares(), "test") for size in (12, 1))
    assert whole.metrics["perplexity"] == pytest.approx(single.metrics["perplexity"], rel=1e-5)
    only = Perplexity(kinds=["dark"])(llava, talking.Squares(), "test")
    assert only.num_items == 6 and only.metrics["perplexity"] == pytest.approx(whole.by_kind["dark"]["perplexity"], rel=1e-5)


class Texts(Source, Split):
    modalities, splits, kinds = ("text",), ("test",), []

    def __init__(self, *texts):
        self.texts = texts

    def split(self, name):
        return self

    def __len__(self):
        return len(self.texts)

    def sample(self, index, generator=None):
        return Sample(f"line {index}", {"text": self.texts[index]})


@torch.no_grad()
def test_plain_text_is_read_without_a_template_and_in_pieces(llava):
    text = "one two three dark? yes. " * 60
    part = llava.processor["conversation"]
    ids = torch.tensor(part.tokenizer.encode(part.symbols.start + text, add_special_tokens=False).ids)
    pieces = ids.split(part.context_length)
    assert len(pieces) > 1
    logits = [llava.head.language.logits(llava.head.language(piece[None]))[0, :-1] for piece in pieces]
    losses = torch.cat([F.cross_entropy(some, piece[1:], reduction="none") for some, piece in zip(logits, pieces, strict=True)])
    result = Perplexity(batch_size=2)(llava, Texts(text), "test")
    assert result.metrics["perplexity"] == pytest.approx(float(losses.mean().exp()), rel=1e-4)
    assert result.details["tokens"] == len(losses) and result.num_items == 1


def test_a_model_without_knowledge_is_as_surprised_as_there_are_tokens(talking):
    system = zoo.create_system("llava_nano")
    system.processor.fit(["one two three"])
    torch.nn.init.zeros_(system.head.language.embedding.weight)  # tied to the logits
    result = Perplexity()(system.eval(), Texts("one two three"), "test")
    assert result.metrics["perplexity"] == pytest.approx(system.head.language.vocab_size, rel=1e-4)


def test_the_terminal_shows_perplexity_as_a_number(llava, talking, tmp_path, capsys):
    result = Perplexity()(llava, talking.Squares(), "test")
    write_result(result, tmp_path / "out", {"evaluation": "perplexity"})
    show_evaluation(result, tmp_path / "out", as_json=False)
    shown = capsys.readouterr().out
    assert f"{result.metrics['perplexity']:.4g}" in shown and "by kind" in shown
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["perplexity"] > 1 and math.isfinite(result.metrics["perplexity"])


def test_a_damaged_picture_is_an_error_or_left_out_and_counted(llava, talking, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG and nothing more")

    class Damaged(talking.Squares):
        share = None

        def split(self, name):
            inner = super().split(name)

            class Holed(Split):
                max_bad_share = self.share

                def __len__(self):
                    return len(inner)

                def sample(self, index, generator=None):
                    sample = inner.sample(index)
                    if index == 4:
                        sample.inputs["conversation"] = replace(sample.inputs["conversation"], images=(damaged,))
                    return sample

            return Holed()

    source, told = Damaged(), []
    with pytest.raises(zoo.DataError, match=r"damaged\.png"):
        Perplexity(batch_size=5)(llava, source, "test")
    source.share = 0.1
    result = Perplexity(batch_size=5)(llava, source, "test", advance=told.append)
    losses = by_hand(llava, [talking.Squares().split("test").sample(i) for i in range(12) if i != 4])
    assert result.metrics["perplexity"] == pytest.approx(float(losses.mean().detach().exp()), rel=1e-4)
    assert result.num_items == 11 and sum(told) == 12 and result.details["skipped"] == 1
    assert "damaged.png" in str(result.details["skipped_examples"])


def test_what_predicts_no_tokens_is_refused(clip, talking, llava):
    with pytest.raises(zoo.ConfigError, match="'perplexity' needs a head that predicts tokens .llava.; CLIPHead does not"):
        Perplexity().check(clip, talking.Squares())
    with pytest.raises(zoo.ConfigError, match="kinds: there is no 'darkk'"):
        Perplexity(kinds=["darkk"]).check(llava, talking.Squares())
    pairs = build_part("source", {"name": "digits"}, "data.source")
    assert Perplexity(limit=3)(llava, pairs, "test").num_items == 3  # pictures with captions are conversations too

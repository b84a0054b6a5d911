"""Evaluation translation, and zoo translate, with a small translator that has learnt its sentences by heart."""

import json

import pytest
import torch
from nltk.translate import AlignedSent, IBMModel1

import zoo
from zoo.commands.cli import main
from zoo.errors import ConfigError
from zoo.evaluation.measures.word_lexicon import WordLexicon
from zoo.evaluation.translation import Translation, translation_scores
from zoo.sources.parallel import Parallel

WRITTEN = ["Das ist ein kleiner Test.", "Öffnen Sie die Datei."]
REFERENCES = ["Das ist ein kurzer Test.", "Öffnen Sie eine Datei."]


def test_scores_are_those_of_sacrebleu():
    scores, signatures = translation_scores(WRITTEN, REFERENCES)
    assert scores == pytest.approx({"bleu": 0.2839, "chrf": 0.6671}, abs=5e-5)
    assert signatures["bleu"] == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    plus, _ = translation_scores(WRITTEN, REFERENCES, word_order=2)
    assert plus["chrf"] == pytest.approx(0.6721, abs=5e-5)
    assert translation_scores(WRITTEN, REFERENCES, ter=True)[0]["ter"] == pytest.approx(0.2222, abs=5e-5)


def test_the_edit_rate_counts_edits_and_shifts_of_words():
    scores, signatures = translation_scores(["c a b x", "one"], ["a b c", "one two"], ter=True)
    assert scores["ter"] == pytest.approx((2 + 1) / 5)  # a shift and a deletion, an insertion; five words of references
    assert signatures["ter"].startswith("nrefs:1|case:lc|tok:tercom")
    assert translation_scores(REFERENCES, REFERENCES, ter=True)[0] == pytest.approx({"bleu": 1, "chrf": 1, "ter": 0})


# Without repeated target words: nltk divides by the sum over all copies of one.
PHRASES = [
    ("the house", "das Haus"),
    ("the book", "das Buch"),
    ("a book", "ein Buch"),
    ("a large house , the book", "ein grosses Haus , das Buch"),
]


@pytest.mark.parametrize("iterations", [1, 4])
def test_the_dictionary_is_model_one(iterations):
    lexicon = WordLexicon(PHRASES, iterations=iterations)
    texts = [AlignedSent(target.split(), source.split()) for source, target in PHRASES]
    theirs = IBMModel1(texts, iterations).translation_table
    for target in ("das", "Haus", "ein", ","):
        assert lexicon.probability(target, "") == pytest.approx(theirs[target][None], abs=1e-9)
        for word in ("the", "house", "book", "a", "large"):
            assert lexicon.probability(target, word) == pytest.approx(theirs[target].get(word, 0.0), abs=1e-9)
    assert lexicon.probability("das", "unknown") == lexicon.probability("unknown", "the") == 0


def test_word_by_word_keeps_the_order_and_unknown_words():
    lexicon = WordLexicon(PHRASES)
    assert lexicon.translate("A book, the (house) Zebra.") == "ein Buch, das (Haus) Zebra."
    assert WordLexicon([]).translate("a b") == "a b"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Pairs, and a directory of a model that has learnt them."""
    folder = tmp_path_factory.mktemp("translator")
    numbers = ["one", "two", "three", "four"]
    pairs = [(f"{a} {b}", f"{b} und dann noch {a}") for a in numbers for b in numbers if a != b]
    rows = [{"en": a, "de": b} for a, b in pairs]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    torch.manual_seed(0)
    system = zoo.create_system("transformer_nano")
    source = Parallel(path=folder, split_fractions=[1.0, 0.0, 0.0])
    system.processor.fit(source.captions())
    batch = system.processor(text=[a for a, _ in pairs], target_text=[b for _, b in pairs])
    optimizer = torch.optim.Adam(system.train().parameters(), lr=3e-3)
    for _ in range(150):
        loss = system(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    zoo.save(system.eval(), folder / "model")
    return folder, pairs


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_perfect_translator_scores_one(saved, num_beams, tmp_path):
    folder, pairs = saved
    source = Parallel(path=folder, split_fractions=[1.0, 0.0, 0.0])
    result = Translation(num_beams=num_beams, baselines=num_beams == 3)(zoo.load(folder / "model"), source, "train")
    assert result.metrics["bleu"] == pytest.approx(1.0) and result.num_items == len(pairs)
    assert result.details["copied_source_bleu"] < 0.1 and "13a" in result.details["signatures"]["bleu"]
    if num_beams == 3:  # with the baselines
        lexicon = WordLexicon([(a, b) for a, b in pairs])
        scores, _ = translation_scores([lexicon.translate(a) for a, _ in pairs], [b for _, b in pairs])
        assert {name: result.details[f"word_by_word_{name}"] for name in scores} == pytest.approx(scores)
    assert ("word_by_word_bleu" in result.details) == (num_beams == 3)
    result.draw(tmp_path)
    assert len((tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == len(pairs)


def test_models_and_sources_that_do_not_fit_are_refused(saved):
    folder, _ = saved
    source, system = Parallel(path=folder, split_fractions=[1.0, 0.0, 0.0]), zoo.load(folder / "model")
    with pytest.raises(ConfigError, match="'translation' needs a head with the verbs generate"):
        Translation().check(zoo.load("clip_vit_nano"), source)
    with pytest.raises(ConfigError, match="compares with the target of each item, but the source gives text"):
        Translation().check(system, Parallel(path=folder, split_fractions=[1.0, 0.0, 0.0], joined=True))
    with pytest.raises(ConfigError, match="tokenize: there is no 'moses'"):
        Translation(tokenize="moses").check(system, source)
    with pytest.raises(ConfigError, match="word_order 1"):
        Translation(word_order=1)
    captions = zoo.create_system("caption_nano", ["system.processor.target_text.reads=target"])
    with pytest.raises(ConfigError, match="baselines: true, but word by word translates texts and the model reads image"):
        Translation(baselines=True).check(captions, source)


def test_the_command_translates_a_text_and_a_file(saved, tmp_path, capsys):
    folder, pairs = saved
    model = ["--model", str(folder / "model")]
    assert main(["translate", pairs[0][0], *model]) == 0
    assert capsys.readouterr().out == pairs[0][1] + "\n"
    lines = tmp_path / "lines.txt"
    lines.write_text(f"{pairs[3][0]}\n\n{'one ' * 100}\n{pairs[5][0]}\n", encoding="utf-8")
    assert main(["translate", str(lines), "-o", str(tmp_path / "new" / "out.txt"), *model, "--num-beams", "1"]) == 1
    assert (tmp_path / "new" / "out.txt").read_text(encoding="utf-8").splitlines() == [pairs[3][1], "", "", pairs[5][1]]
    assert "line 3: " in capsys.readouterr().err
    assert main(["translate", str(lines), "--json", *model]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[0] == {"text": pairs[3][0], "translation": pairs[3][1]} and "error" in found[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["translate", "a", "--model", "clip_vit_nano"], "does not write texts from texts"),
        (["translate", "  ", "--model", "x"], "TEXT: is empty"),
        (["translate", "a", "--model", "x", "-o", "/dev/null/x"], "the folder /dev/null cannot be created"),
    ],
)
def test_mistakes_end_with_status_two(words, message, capsys):
    assert main(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())

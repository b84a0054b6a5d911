"""Evaluations divided among processes give the figures of one process.

The ranks of most tests run one after the other in this process, and exchange pickles: each evaluation runs until it needs the others'
results, and again with them. One test starts two processes.
"""

import json
import pickle

import pytest

import zoo
from zoo.data.skips import Skips
from zoo.evaluation.measures.features import FeatureReader
from zoo.evaluation.measures.shares import Ranks, divided, of_all_ranks, own_part
from zoo.evaluation.question_answering import QuestionAnswering
from zoo.evaluation.retrieval import Retrieval
from zoo.registry import find_part, part_names
from zoo.runs import ranked_evaluation
from zoo.training.log import read_lines

CALLS = {"knn_probe": {"train_limit": 21}, "linear_probe": {"train_limit": 41}}  # not multiples of the batches


class Waiting(BaseException):
    """The other ranks' results are not there yet."""


def together(run, world):
    """Return what each of ``world`` ranks returns."""
    exchanged = []
    while True:
        new, found = [], []
        for rank in range(world):
            seen = iter(exchanged)

            def gather(own, seen=seen, new=new):
                for pickles in seen:
                    return [pickle.loads(each) for each in pickles]
                new.append(pickle.dumps(own))
                raise Waiting

            try:
                with divided(Ranks(rank, world, gather)):
                    found.append(run())
            except Waiting:
                pass
        if not new:
            return found
        assert len(new) == world, "some ranks exchange results and others do not"
        exchanged.append(new)


def figures(result):
    details = {name: value for name, value in result.details.items() if "seconds" not in name}
    return dict(result.metrics), result.num_items, json.loads(json.dumps([details, result.facts]))


@pytest.mark.parametrize("name", part_names("evaluation"))
def test_two_ranks_give_the_figures_of_one(name, parts, tmp_path):
    model, source, keywords = parts[name]()
    words = {**keywords, "limit": min(keywords["limit"], 5), "batch_size": 1 if keywords["limit"] < 5 else 2, **CALLS.get(name, {})}
    evaluation = find_part("evaluation", name)(**words)
    assert evaluation.shares_items, "its items are not divided, so that the other processes only wait"
    split = source.splits[-1]
    alone = evaluation(model, source, split)
    for result in together(lambda: evaluation(model, source, split), 2):
        assert figures(result) == figures(alone)


@pytest.mark.parametrize("world", [3, 7])
def test_more_ranks_than_batches_and_parts_of_unequal_size_change_nothing(world, clip, source):
    evaluation = Retrieval(limit=11, batch_size=2, positives="groups")
    alone = evaluation(clip, source, "test")
    for result in together(lambda: evaluation(clip, source, "test"), world):
        assert figures(result) == figures(alone)


def test_the_parts_of_all_ranks_are_all_items_in_whole_batches():
    for count, batch_size, world in ((0, 4, 2), (1, 4, 3), (10, 2, 3), (17, 4, 4)):
        parts = [range(count)[part] for part in together(lambda: own_part(count, batch_size), world)]  # noqa: B023
        assert [position for part in parts for position in part] == list(range(count))
        assert all(not part or part.start % batch_size == 0 for part in parts)


def test_kinds_and_bad_items_are_counted_over_all_ranks(talking):
    class Tolerant(talking.Squares):
        def split(self, name):
            return super().split(name).tolerating(0.5)

    model = talking.Talker(talking.right_answer)
    for words in ({"kinds": ["number"]}, {}):
        evaluation = QuestionAnswering(batch_size=3, **words)
        alone = evaluation(model, Tolerant(13, fault=5), "test")
        for result in together(lambda: evaluation(model, Tolerant(13, fault=5), "test"), 2):  # noqa: B023
            assert figures(result) == figures(alone) and result.details["skipped"] == 1
            assert [each.conversation is not None for each in result.answers] == [each.conversation is not None for each in alone.answers]


def test_an_error_of_one_rank_is_raised_by_all(talking, unreadable, clip):
    def run(call):
        with pytest.raises(zoo.DataError) as found:
            call()
        return str(found.value)

    model = talking.Talker(talking.right_answer)
    assert (
        together(lambda: run(lambda: QuestionAnswering(batch_size=3)(model, talking.Squares(9, fault=8), "test")), 3)
        == ["item 8: cannot be read"] * 3
    )
    reader = FeatureReader(modality="image", features="pooled", batch_size=1)
    messages = together(lambda: run(lambda: reader(clip, unreadable.split("test"), limit=None, advance=lambda items: None)), 2)
    assert messages == ["item b.png: cannot be read"] * 2


def test_bad_items_that_crowd_in_one_part_are_judged_by_their_share_of_all():
    def run(bad):
        skips = Skips(0.1)
        with_bad = own_part(400, 1).start == 0
        return of_all_ranks(lambda: skips.add([zoo.DataError("bad")] * bad * with_bad, 200) or ["rows"], skips=skips), skips.total

    assert together(lambda: run(35), 2) == [(["rows", "rows"], 35)] * 2  # 17 % of the first part, 9 % of all
    with pytest.raises(zoo.DataError, match="45 of 400 items cannot be used"):
        together(lambda: run(45), 2)


def test_an_evaluation_that_does_not_divide_its_items_runs_on_the_first_rank(monkeypatch, caplog, clip, source):
    class Own(find_part("evaluation", "zero_shot")):
        shares_items = False

    shared = []
    monkeypatch.setattr(ranked_evaluation, "world_size", lambda: 2)
    monkeypatch.setattr(ranked_evaluation, "name_of", lambda kind, part: "own")
    monkeypatch.setattr(ranked_evaluation, "share_object", lambda own: shared.append(own) or shared[0])
    results = []
    for rank in (0, 1):
        monkeypatch.setattr(ranked_evaluation, "rank", lambda rank=rank: rank)
        results.append(ranked_evaluation.evaluate_on_ranks(Own(limit=4, cache=False), clip, source, "test"))
    assert results[1] == (None, results[0][1]) and results[0][0].num_items == 4
    assert "own does not divide its items among processes (shares_items is False), so that the first of 2 evaluates alone" in caplog.text


@pytest.mark.heavy
def test_torchrun_evaluates_and_trains_with_the_figures_of_one_process(launcher, tmp_path):
    """Divide 151 items in batches of 10 over two processes, by ``zoo evaluate`` and inside training, with BatchNorm in the model."""
    words = ["training.max_steps=4", "training.batch_size=16", "training.evaluate_every=2", "training.checkpoint_every=4"]
    evaluation = ["evaluation=zero_shot", "evaluation.batch_size=10", "evaluation.limit=151"]
    run, log = tmp_path / "run", tmp_path / "log"
    command = ["train", "encoder@system.encoders.image=vig_nano", *words, *evaluation, f"run_dir={run}"]
    assert launcher.start(command, log, 2).wait() == 0, log.read_text()[-3000:]
    inside = read_lines(run / "metrics.jsonl")[-1]
    found = {}
    for processes in (1, 2):
        command = ["evaluate", "data=digits", "data.test_split=validation", *evaluation, f"checkpoint={run}/last", f"output={tmp_path}/out"]
        assert launcher.start(command, log, processes).wait() == 0, log.read_text()[-3000:]
        assert log.read_text().count("zero_shot: 151 items") == 1  # one process prints
        found[processes] = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found[1] == found[2] and found[1]["items"] == 151 and inside["kind"] == "evaluation"
    assert all(inside[name] == found[1][name] for name in ("top1", "top5", "mean_per_class"))

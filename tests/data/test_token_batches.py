"""Batches with a budget of tokens: within it, with every item once, a pure function of seed and epoch, and exact to resume."""

import numpy as np
import pytest

from zoo.assembly.compose import compose
from zoo.data.loader import Cursor, ProcessedSplit, StepSampler, training_loader
from zoo.data.system_processor import Processor
from zoo.data.token_batches import TokenBatches, by_tokens
from zoo.errors import ConfigError, DataError
from zoo.processors.target_text import TargetText
from zoo.processors.text import TextProcessor
from zoo.runs.check import check
from zoo.runs.train import train
from zoo.training.log import read_lines
from zoo.types import TARGET_IDS, Sample, Split

TOKENS = 120


class Pairs(Split):
    """Pairs of 1 to 20 and 1 to 12 words; the numbers of ``bad`` cannot be read."""

    def __init__(self, size=80, bad=()):
        self.size, self.bad = size, bad

    def __len__(self):
        return self.size

    def sample(self, index, generator=None):
        if index in self.bad:
            raise DataError(f"item {index} is bad")
        source, target = " ".join(["cat"] * (1 + index * 7 % 20)), " ".join(["dog"] * (1 + index * 5 % 12))
        return Sample(str(index), {"text": source, "target": target})


@pytest.fixture(scope="module")
def processor():
    words = ["cat dog"] * 3
    text = TextProcessor(context_length=32, vocab_size=300, mask_padding=True, pad_to="longest")
    target = TargetText(context_length=32, vocab_size=300, reads="target")
    both = Processor({"text": text, "target_text": target})
    both.fit(words)
    return both


def batches_of(processor, *, seed=0, tokens=TOKENS, bad=(), share=None):
    split = Pairs(bad=bad)
    split.max_bad_share = share
    return TokenBatches(ProcessedSplit(split, processor), tokens=tokens, seed=seed)


def loaded(data, start, stop, *, cursor=None, rank=0, world_size=1, batch_size=2):
    words = {"order": data.order, "rank": rank, "world_size": world_size, "cursor": cursor}
    return list(training_loader(data, StepSampler(len(data), batch_size=batch_size, seed=0, start=start, stop=stop, **words)))


def test_groups_are_cut_where_the_padded_tokens_exceed_the_budget():
    lengths = np.array([[5], [2], [4], [1]])
    assert [group.tolist() for group in by_tokens(lengths, np.arange(4), 8)] == [[3, 1], [2], [0]]
    assert by_tokens(np.zeros((3, 2), dtype=int), np.arange(3), 8) == []


def test_every_item_is_in_one_group_and_no_group_exceeds_the_budget(processor):
    data = batches_of(processor)
    groups = data.plan(0)
    assert sorted(np.concatenate(groups)) == list(range(80))
    assert max(len(group) * int(data.lengths[group].max(0).sum()) for group in groups) <= TOKENS
    for batch in loaded(data, 0, len(data), batch_size=1):
        assert batch.inputs["text"].numel() + batch.targets[TARGET_IDS].numel() <= TOKENS
    assert data.report()["filled"] > 0.6


def test_groups_depend_on_seed_and_epoch_only(processor):
    one, other = batches_of(processor), batches_of(processor)
    for epoch in (1, 0):
        assert all(map(np.array_equal, one.plan(epoch), other.plan(epoch)))
    assert not all(map(np.array_equal, one.plan(0), one.plan(1)[: len(one)]))
    assert not all(map(np.array_equal, one.plan(0), batches_of(processor, seed=1).plan(0)))


def test_ranks_share_the_groups_of_a_step_and_a_resumed_run_goes_on(processor):
    data = batches_of(processor)
    steps = len(data) // 2 + 2  # into the second epoch
    whole = loaded(data, 0, steps)
    ranks = [loaded(data, 0, steps, rank=rank, world_size=2) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert batch.ids == [name for part in parts for name in part.ids]
    later = loaded(data, 5, steps, cursor=Cursor().after(5, batch_size=2, length=len(data)))
    assert [batch.ids for batch in later] == [batch.ids for batch in whole[5:]]


def test_bad_items_are_left_out_or_refused(processor):
    data = batches_of(processor, bad=(3, 4), share=0.5)
    assert sorted(np.concatenate(data.plan(0))) == [index for index in range(80) if index not in (3, 4)]
    with pytest.raises(DataError, match="item 3 is bad"):
        batches_of(processor, bad=(3,))


def test_a_budget_below_the_longest_item_is_refused(processor):
    with pytest.raises(ConfigError, match="tokens: 20 is less than the 3"):
        batches_of(processor, tokens=20)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.token_batches={token: 5}"], "data.token_batches"),
        (["data.token_batches={tokens: 5}", "+data.packing={tokens: 5}"], "are both set"),
    ],
)
def test_wrong_settings_are_refused_before_data_is_read(words, message):
    with pytest.raises(ConfigError, match=message):
        check(compose("train", ["system=transformer_nano", "data=parallel", "data.source.path=x", *words]))


@pytest.mark.heavy
def test_a_translator_trains_on_token_batches_and_reports_them(tmp_path):
    rows = "".join(f'{{"en": "{"cat " * (1 + i % 9)}{i}", "de": "{"Hund " * (1 + i % 5)}{i}"}}\n' for i in range(120))
    (tmp_path / "pairs.jsonl").write_text(rows)
    words = ["system=transformer_nano", "data=parallel", f"data.source.path={tmp_path / 'pairs.jsonl'}", "data.num_workers=0"]
    words += ["data.token_batches={tokens: 512}", "training.batch_size=1", "training.max_steps=4", "training.evaluate_every=0"]
    result = train(compose("train", [*words, "training.log_every=1", f"run_dir={tmp_path / 'run'}"]))
    assert len([line for line in read_lines(result.run_dir / "metrics.jsonl") if line["kind"] == "train"]) == 4
    assert '"token_batches"' in (result.run_dir / "data.json").read_text()

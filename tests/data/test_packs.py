"""Packs: planned as a pure function of seed and epoch, within their budget, with every document in, and exact to resume."""

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.loader import Draw, ProcessedSplit, StepSampler, training_loader
from zoo.data.order import WindowedOrder
from zoo.data.packs import Packs, fill
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError
from zoo.processors.chat.messages import Conversation
from zoo.processors.conversation import ConversationProcessor
from zoo.processors.image import ImageProcessor
from zoo.types import SUPERVISED, Sample, Split

RED = Image.new("RGB", (8, 8), "red")
CONTEXT, TOKENS = 32, 64


class Documents(Split):
    """Documents of 1 to 40 words, every fifth with a picture, in the middle of which the word may vary."""

    def __init__(self, size=60, varied=False, bad=()):
        self.size, self.varied, self.bad = size, varied, bad

    def __len__(self):
        return self.size

    def sample(self, index, generator=None):
        if index in self.bad:
            raise DataError(f"item {index} is bad")
        count = 1 + index * 7 % 40
        if self.varied and generator is not None:
            count = max(1, count + int(generator.integers(-6, 7)))
        text = " ".join(["cat", "dog"][(index + i) % 2] + ("." if i % 5 == 4 else "") for i in range(count))
        parts = [("text", text), *([("image", b"no picture" if index in self.bad else RED)] if index % 5 == 0 else [])]
        return Sample(str(index), {"conversation": Conversation.of_document(parts, str(index))})


@pytest.fixture(scope="module")
def processor():
    part = ConversationProcessor(vocab_size=300, context_length=CONTEXT, template="kosmos")
    part.fit(["cat dog cat. dog. a cat dog dog cat"])
    part.counts = {"image": lambda item: 3}
    return Processor({"image": ImageProcessor(image_size=8), "conversation": part})


def packs_of(processor, *, seed=0, tokens=TOKENS, share=None, split=None):
    split = split or Documents()
    if share is not None:
        split.max_bad_share = share
    return Packs(ProcessedSplit(split, processor), tokens=tokens, seed=seed)


def draw(index, seed=0, epoch=0):
    return Draw(index, (seed, epoch, index))


def everything(packs, epoch=0):
    return [packs.collate([packs[draw(i, packs.seed, epoch)]]) for i in range(len(packs))]


def test_items_go_into_the_fullest_pack_that_has_room():
    assert fill([5, 3, 4, 2], 7) == [[0, 3], [1, 2]]
    assert fill([], 7) == [] and fill([7, 7], 7) == [[0], [1]]
    lengths = np.random.default_rng(0).integers(1, 65, 500).tolist()
    packs = fill(lengths, 64)
    assert sorted(i for pack in packs for i in pack) == list(range(500))
    assert all(sum(lengths[i] for i in pack) <= 64 for pack in packs) and sum(lengths) / (64 * len(packs)) > 0.9


def test_an_epoch_holds_every_token_of_every_document_once_and_no_pack_is_too_long(processor):
    packs = packs_of(processor)
    batches = everything(packs)
    assert all(int(batch.masks["text"].sum()) <= TOKENS and batch.masks["text"].shape[1] <= CONTEXT for batch in batches)
    shown = {}
    for batch in batches:
        for id, real in zip(batch.ids, batch.masks["text"], strict=True):
            shown[id] = shown.get(id, 0) + int(real.sum())
    part, split = ConversationProcessor(vocab_size=300, context_length=4096, template="kosmos"), Documents()
    part.fit(["cat dog cat. dog. a cat dog dog cat"])
    for index in range(len(split)):
        conversation = split.sample(index).inputs["conversation"]
        (whole,) = part.parts(conversation, {"image": [3] * len(conversation.images)})
        parts = len(packs.measured.lengths[index])
        assert shown[str(index)] == len(whole.token_ids) + parts - 1  # each further part has a start symbol of its own
    assert sum(len(batch.inputs["image"]) for batch in batches) == 12


def test_documents_stand_in_rows_of_their_own_with_their_pictures_in_order(processor):
    packs = packs_of(processor)
    batch = packs.collate([packs[draw(0)], packs[draw(1)]])
    assert len(batch) == len(batch.inputs["text"]) == sum(len(pack) for pack in packs.plan(0)[:2])
    assert (batch.inputs["text"] == -200).sum() == 3 * len(batch.inputs["image"])
    assert not (batch.targets[SUPERVISED] & ~batch.masks["text"]).any() and not batch.targets[SUPERVISED][:, 0].any()


def test_the_plan_follows_from_seed_and_epoch_alone(processor):
    one, other = packs_of(processor), packs_of(processor)
    first = one.plan(0)
    assert first != one.plan(1) and one.plan(0) == first == other.plan(0)
    assert packs_of(processor, seed=1).plan(0) != first


def batches_of(packs, start, stop, num_workers=0):
    sampler = StepSampler(len(packs), batch_size=3, seed=packs.seed, start=start, stop=stop, order=packs.order)
    return list(training_loader(packs, sampler, num_workers=num_workers))


@pytest.mark.parametrize("varied", [False, True])
def test_a_run_that_begins_in_the_middle_of_an_epoch_sees_what_is_left_of_it(processor, varied):
    packs, later = (packs_of(processor, split=Documents(varied=varied)) for _ in range(2))
    steps = len(packs) // 3 * 2 + 2  # into the third epoch
    whole, rest = batches_of(packs, 0, steps), batches_of(later, 4, steps)
    assert all(torch.equal(a.inputs["text"], b.inputs["text"]) and a.ids == b.ids for a, b in zip(whole[4:], rest, strict=True))
    assert whole[0].ids != whole[len(packs) // 3].ids


def test_ranks_share_the_batch_of_one_process(processor):
    packs = packs_of(processor)
    samplers = [
        StepSampler(len(packs), batch_size=4, seed=0, start=0, stop=3, rank=rank, world_size=2, order=packs.order) for rank in range(2)
    ]
    (alone,) = [list(StepSampler(len(packs), batch_size=4, seed=0, start=0, stop=3, order=packs.order))]
    assert [a + b for a, b in zip(*samplers, strict=True)] == alone


def test_documents_that_vary_keep_within_the_pack(processor):
    packs = packs_of(processor, split=Documents(varied=True))
    batches = [batch for epoch in range(3) for batch in everything(packs, epoch)]
    assert all(int(batch.masks["text"].sum()) <= TOKENS for batch in batches)
    assert all(len(packs.plan(epoch)) > 0 for epoch in range(3))


def test_packs_of_a_split_with_an_order_of_its_own_keep_to_it(processor, monkeypatch):
    monkeypatch.setattr("zoo.data.packs.WINDOW", 16)
    split = Documents()
    split.order = lambda seed, epoch: WindowedOrder([20, 20, 20], window=20, seed=seed, epoch=epoch)
    packs = packs_of(processor, split=split)
    documents = [{place.document // 20 for place in pack} for pack in packs.plan(0)]
    assert len(documents[0]) <= 2 and len(set.union(*documents[:3])) <= 2 and set.union(*documents) == {0, 1, 2}


def test_a_document_that_cannot_be_used_is_an_error_or_left_out_and_counted(processor):
    with pytest.raises(DataError, match="item 3 is bad"):
        packs_of(processor, split=Documents(bad=(3,)))
    packs = packs_of(processor, split=Documents(bad=(3, 4)), share=0.1)
    assert packs.report()["left_out"] == {"other": 2} and packs.report()["documents"] == 58
    assert all(place.document not in (3, 4) for pack in packs.plan(0) for place in pack)
    with pytest.raises(DataError, match=r"none of the 2 documents can be used \(other 2\)"):
        packs_of(processor, split=Documents(size=2, bad=(0, 1)), share=0.1)


class LateSplit(Documents):
    """Split whose document 0 has an image that cannot be decoded, which is found only when it is read."""

    def sample(self, index, generator=None):
        if index:
            return super().sample(index, generator)
        return Sample("0", {"conversation": Conversation.of_document([("text", "cat"), ("image", b"no picture")], "0")})


def test_a_picture_that_cannot_be_decoded_costs_its_document_alone(processor):
    packs = packs_of(processor, split=LateSplit(), share=0.1)
    number = next(i for i, pack in enumerate(packs.plan(0)) if any(place.document == 0 for place in pack))
    assert len(packs.plan(0)[number]) > 1
    item = packs[draw(number)]
    assert len(item.faults) == 1 and item.count == len(packs.plan(0)[number]) - 1
    batches_of(packs, 0, len(packs) // 3)
    assert packs.skips.total <= 1 and packs.skips.items > len(packs)
    with pytest.raises(DataError, match="picture|image|decode"):
        packs_of(processor, split=LateSplit())[draw(number)]


def test_figures_of_a_report_add_up(processor):
    report = packs_of(processor).report()
    assert report["documents"] == 60 and report["images"] == 12 and report["parts"] > 60
    assert report["tokens"] == report["tokens_in_packs"] == report["supervised_tokens"] + report["parts"] + 3 * 12
    assert report["filled"] == pytest.approx(report["tokens"] / TOKENS / report["packs"], abs=1e-4) and report["filled"] > 0.9


def test_what_cannot_be_packed_is_refused_with_what_to_do(processor):
    with pytest.raises(ConfigError, match="tokens: 31 is less than the 32 that one document may have.*max_length"):
        packs_of(processor, tokens=31)
    data = ProcessedSplit(Documents(), Processor({"image": ImageProcessor(image_size=8)}))
    with pytest.raises(ConfigError, match="data.packing=null"):
        Packs(data, tokens=64, seed=0)


def test_measuring_is_told_of(processor):
    told = []
    Packs(ProcessedSplit(Documents(), processor), tokens=64, seed=0, tell=lambda done, total: told.append((done, total)))
    assert told[0] == (1, 60) and told[-1] == (60, 60)

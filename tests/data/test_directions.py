"""UniLM's masks: masked tokens are predicted from both sides, from one side, or from a source text and what precedes them."""

from dataclasses import replace

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import zoo
from zoo.assembly.compose import compose
from zoo.data.masking import DIRECTIONS, Masking
from zoo.errors import ConfigError
from zoo.layers.decoder import seen_by_query
from zoo.processors.text import TextProcessor
from zoo.types import IGNORED, MASKED, PREFIXES, Batch

UNILM = {"bidirectional": 2, "seq2seq": 2, "left_to_right": 1, "right_to_left": 1}
TEXTS = ["unbelievable dogs and cats running quickly", "running over the highest mountains", "a believable story of running dogs"]
LENGTHS = torch.tensor([7, 5, 7, 6])
REAL = torch.arange(7) < LENGTHS[:, None]
PREFIX = torch.tensor([7, 0, 3, -1])  # both ways, left to right, sequence to sequence, right to left


def test_the_masks_are_those_of_unilms_figure():
    real = torch.tensor([[True] * 4, [True] * 4, [True] * 4, [False, True, True, True]])
    seen = seen_by_query(torch.tensor([4, 0, 2, -1]), real)
    rows = [["".join(str(int(key)) for key in query) for query in row] for row in seen]
    assert rows == [["1111"] * 4, ["1000", "1100", "1110", "1111"], ["1100", "1100", "1110", "1111"], ["0000", "0111", "0011", "0001"]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Their BERT with random weights, and our encoder and head with the same."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    theirs = BertForMaskedLM(BertConfig(**sizes, max_position_embeddings=20, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path_factory.mktemp("bert")
    theirs.save_pretrained(folder)
    return theirs, zoo.load(folder)


@torch.no_grad()
def test_tokens_equal_those_of_bert_with_the_same_mask(models):
    theirs, ours = models
    encoder = ours if isinstance(ours, zoo.types.Encoder) else ours.encoders["text"]
    ids = torch.randint(5, 60, (4, 7), generator=torch.Generator().manual_seed(1))
    seen = seen_by_query(PREFIX, REAL)
    added = torch.zeros(4, 1, 7, 7).masked_fill(~seen[:, None], -1e9)
    types = torch.zeros_like(ids)
    expected = theirs.bert(input_ids=ids, attention_mask=added, token_type_ids=types).last_hidden_state
    found = encoder(ids, seen, types=types)
    torch.testing.assert_close(found.tokens[REAL], expected[REAL], atol=1e-5, rtol=1e-5)
    assert torch.equal(found.mask, REAL)
    plain = encoder(ids, REAL, types=types).tokens
    torch.testing.assert_close(found.tokens[0], plain[0], atol=1e-5, rtol=1e-5)  # both ways is BERT itself
    for row in (1, 2, 3):
        assert float((found.tokens[row] - plain[row])[REAL[row]].abs().max()) > 1e-2


@pytest.fixture(scope="module")
def part():
    part = TextProcessor(vocab_size=220, context_length=200, tokenizer="word_pieces")
    part.fit(TEXTS)
    return part


def drawn(part, texts, directions, epoch=0):
    masking = Masking(tokenizer=part.tokenizer, mask_token_id=part.mask_token_id, directions=directions)
    ids, mask = part(texts)
    return masking(Batch({"text": ids}, {"text": mask}), [(0, epoch, row) for row in range(len(ids))])


def test_directions_are_drawn_by_weight_and_change_no_mask(part):
    found = drawn(part, TEXTS * 100, UNILM)
    plain = drawn(part, TEXTS * 100, None)
    assert torch.equal(found.inputs["text"], plain.inputs["text"]) and torch.equal(found.targets[MASKED], plain.targets[MASKED])
    lengths, prefixes = found.masks["text"].sum(1), found.targets[PREFIXES]
    counts = [int(each.sum()) for each in (prefixes == lengths, (prefixes > 0) & (prefixes < lengths), prefixes == 0, prefixes == -1)]
    assert sum(counts) == 300 and counts == [pytest.approx(n, abs=25) for n in (100, 100, 50, 50)]


def test_the_first_of_two_texts_is_the_source(part):
    ids, mask = part([(TEXTS[0], TEXTS[1])])
    masking = Masking(tokenizer=part.tokenizer, mask_token_id=part.mask_token_id, directions={"seq2seq": 1})
    found = masking(Batch({"text": ids}, {"text": mask}), [(0, 0, 0)])
    assert found.targets[PREFIXES].tolist() == [part([TEXTS[0]])[1].sum().item()]


@pytest.mark.parametrize(
    ("directions", "message"), [({"upwards": 1}, "no 'upwards'"), ({"seq2seq": -1}, "weight -1"), ({}, "no direction")]
)
def test_wrong_directions_are_refused(part, directions, message):
    with pytest.raises(ConfigError, match=message):
        drawn(part, TEXTS, directions)


def system_of(name="bert_pretraining_nano"):
    torch.manual_seed(0)
    system = zoo.create_system(name).train()
    system.processor.fit(TEXTS)
    return system


def batch_of(system, direction, texts=TEXTS):
    part = system.processor["text"]
    words = {"mask_share": 1.0, "random_share": 0.0, "directions": {direction: 1}}
    masking = Masking(tokenizer=part.tokenizer, mask_token_id=part.mask_token_id, **words)
    ids, mask = part(list(zip(texts, texts[1:] + texts[:1], strict=True)))
    batch = masking(Batch({"text": ids}, {"text": mask}), [(0, 0, row) for row in range(len(ids))])
    return replace(batch, targets={**batch.targets, "labels": torch.tensor([0, 1, 0])})


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_prediction_reads_only_its_direction(direction):
    """Change one token behind the first masked one: only directions that see it may predict otherwise."""
    system = system_of().eval()
    batch = batch_of(system, direction)
    row, place = (batch.targets[MASKED] != IGNORED).nonzero()[0].tolist()
    behind = batch.inputs["text"].clone()
    last = int(batch.masks["text"][row].sum()) - 1
    behind[row, last] = (behind[row, last] + 1) % 5 + 5
    before = batch.inputs["text"].clone()
    before[row, 0] = behind[row, last]
    with torch.no_grad():
        shown = [replace(batch, inputs={"text": ids}) for ids in (batch.inputs["text"], behind, before)]
        first, *others = (system(each).outputs["logits"][0] for each in shown)
    same = [torch.equal(first, other) for other in others]
    assert place < last
    assert same == [direction in ("left_to_right", "seq2seq"), direction == "right_to_left"]


def test_only_texts_read_both_ways_learn_whether_they_belong_together():
    system = system_of()
    for direction in DIRECTIONS:
        output = system(batch_of(system, direction))
        output.loss.backward()
        assert output.loss.isfinite() and ("nsp_loss" in output.metrics) == (direction == "bidirectional")
    assert all(parameter.grad is not None for parameter in system.parameters())


def test_a_config_with_directions_fits(tmp_path):
    directions = "data.masking={directions: {bidirectional: 2, seq2seq: 1}}"
    words = ["system=bert_pretraining_nano", "data=documents", f"data.source.path={tmp_path}", "data.source.pairs=next"]
    zoo.check(compose("train", [*words, directions]))
    with pytest.raises(ConfigError, match="takes no mask by query"):
        zoo.check(compose("train", ["system=modernbert_pretraining_nano", *words[1:3], directions]))


@pytest.mark.parametrize(
    ("name", "message"),
    [("modernbert_pretraining_nano", "ModernBert takes no mask by query"), ("electra_pretraining_nano", "reads in both")],
)
def test_other_encoders_and_heads_are_refused(name, message):
    system = system_of(name)
    with pytest.raises(ConfigError, match=message):
        system(batch_of(system, "left_to_right"))

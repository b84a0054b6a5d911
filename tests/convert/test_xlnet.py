"""XLNet of transformers against ours, beside the cases in test_transformers_text.py: two streams, memory, segments, texts, heads.

Everything is in float32: with two streams, transformers casts the relative positions to no other type and stops.
"""

import json

import pytest
import torch
import transformers
from sentence_pieces import XLNET, pieces
from sizes import num_parameters
from transformers import AutoTokenizer, XLNetConfig, XLNetForSequenceClassification, XLNetLMHeadModel, XLNetModel

import zoo
from zoo.layers.turns import PADDING
from zoo.storage.tensors import read_tensors
from zoo.types import IGNORED, MASKED, TURNS, Batch

SIZES = {"vocab_size": 101, "d_model": 60, "n_head": 5, "n_layer": 3, "d_inner": 100, "mem_len": 11}


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture
def pair(scramble, tmp_path):
    """A random model of transformers, and ours read from its directory."""
    reference = scramble(XLNetLMHeadModel(XLNetConfig(**SIZES)))
    reference.save_pretrained(tmp_path / "theirs")
    return reference, zoo.load(tmp_path / "theirs")


def random_turns(rows, length, predicted):
    """An order for each row: the context in order too, and the last ``predicted`` tokens of the order with turns above 0."""
    ranks = torch.stack([torch.randperm(length) for _ in range(rows)])
    return ranks - (length - predicted) + 1


def asked(turns):
    """Return their perm_mask and target_mapping; predicted tokens stand in the order of the text."""
    targets = [(row > 0).nonzero()[:, 0] for row in turns]
    mapping = torch.stack([torch.nn.functional.one_hot(places, turns.shape[1]).float() for places in targets])
    return {"perm_mask": (turns[:, :, None] <= turns[:, None, :]).float(), "target_mapping": mapping}


@pytest.mark.parametrize(
    ("name", "sizes"), [("xlnet_base", {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072}), ("xlnet_large", {})]
)
def test_rows_have_as_many_parameters_as_theirs(name, sizes):
    with torch.device("meta"):
        theirs = XLNetModel(XLNetConfig(**sizes))
    assert num_parameters(name) == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.card("xlnet", "equals its reference")
@pytest.mark.card("xlnet", "goes back")
@pytest.mark.parametrize("length", [2, 13, 24])
@torch.no_grad()
def test_two_streams_in_a_random_order_equal_theirs_and_go_back(pair, length, close, same_state, tmp_path):
    reference, system = pair
    ids, turns, types = torch.randint(0, 101, (3, length)), random_turns(3, length, max(1, length // 6)), torch.randint(0, 3, (3, length))
    theirs = reference(input_ids=ids, token_type_ids=types, **asked(turns)).logits  # [B, predicted, vocab_size]
    tokens = system.encoders["text"](ids, turns, types=types).tokens
    close(system.head.word_logits(tokens[turns > 0]), theirs.flatten(0, 1))
    zoo.export(system, tmp_path / "back")
    same_state(read_tensors(tmp_path / "back" / "model.safetensors"), read_tensors(tmp_path / "theirs" / "model.safetensors"))
    again, report = XLNetLMHeadModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    close(again.eval()(input_ids=ids, token_type_ids=types, **asked(turns)).logits, theirs)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == ["XLNetLMHeadModel"]


@pytest.mark.card("xlnet", "equals its reference")
@torch.no_grad()
def test_the_loss_of_padded_texts_equals_theirs(pair, close):
    reference, system = pair
    ids, mask = torch.randint(6, 101, (4, 19)), torch.arange(19) < torch.tensor([[19], [7], [3], [12]])
    turns = torch.zeros_like(ids)
    turns[:, :2] = torch.tensor([2, 1])  # the same number in each row, which their target_mapping needs
    labels = torch.where(turns > 0, ids, IGNORED)
    ours = system(Batch({"text": ids}, {"text": mask}, {MASKED: labels, TURNS: turns}))
    blocked = (turns[:, None, :] > 0) & (turns[:, :, None] <= turns[:, None, :])  # tokens of the context see each other
    words = {**asked(turns), "perm_mask": blocked.float(), "attention_mask": mask.float(), "labels": ids[:, :2].contiguous()}
    theirs = reference(input_ids=torch.where(mask, ids, 5), **words)
    close(ours.outputs["logits"], theirs.logits.flatten(0, 1))
    close(ours.loss, theirs.loss)


@pytest.mark.card("xlnet", "equals its reference")
@pytest.mark.parametrize("streams", [1, 2])
@torch.no_grad()
def test_segments_after_each_other_equal_theirs_with_memory(pair, streams, close):
    reference, system = pair
    model, memory, theirs = system.encoders["text"], (), None
    for length in (9, 6, 14):  # more than the 11 tokens that are kept
        ids, types = torch.randint(0, 101, (2, length)), torch.randint(0, 2, (2, length))
        turns = random_turns(2, length, 3) if streams == 2 else None
        words = asked(turns) if turns is not None else {}
        found = reference.transformer(input_ids=ids, token_type_ids=types, mems=theirs, use_mems=True, **words)
        encoded, memory = model.with_memory(ids, turns, memory=memory, keep=11, types=types)
        theirs = found.mems
        close(encoded.tokens if turns is None else encoded.tokens[turns > 0].view(2, 3, -1), found.last_hidden_state)
        for ours, kept in zip(memory, theirs, strict=True):
            close(ours, kept.transpose(0, 1))


@torch.no_grad()
def test_pairs_of_texts_padded_on_the_left_equal_ours_padded_on_the_right(scramble, close, tmp_path):
    """``a <sep> b <sep> <cls>`` with segments 0 0 1 1 2, as it is fine-tuned; the classification symbol is the pooled last token."""
    (tmp_path / "theirs").mkdir()
    pieces("spiece.model", **XLNET)(tmp_path / "theirs")
    reference = scramble(XLNetModel(XLNetConfig(**SIZES)))
    reference.save_pretrained(tmp_path / "theirs")
    tokenizer, model = AutoTokenizer.from_pretrained(str(tmp_path / "theirs")), zoo.load(tmp_path / "theirs")
    part, pairs = model.processor["text"], [("the cat sat", "hello world"), ("a dog", "it's a test isn't it")]
    words = tokenizer(*zip(*pairs, strict=True), padding=True, return_token_type_ids=True, return_tensors="pt")
    (ids, mask), theirs = part(pairs), reference(**words).last_hidden_state
    assert words["attention_mask"][:, 0].tolist() == [0, 1] and mask[:, -1].tolist() == [False, True] and part.pad_token_id == 5
    for row in range(2):
        assert ids[row][mask[row]].tolist() == words["input_ids"][row][words["attention_mask"][row] == 1].tolist()
    ours = model(ids, mask)
    close(ours.tokens[mask], theirs[words["attention_mask"] == 1])
    close(ours.pooled, theirs[:, -1])
    zoo.export(model, tmp_path / "back")
    again = AutoTokenizer.from_pretrained(str(tmp_path / "back"))
    assert again(*zip(*pairs, strict=True), padding=True)["input_ids"] == words["input_ids"].tolist()
    assert (again.cls_token, again.sep_token, again.pad_token) == ("<cls>", "<sep>", "<pad>")


def test_a_text_that_is_cut_keeps_both_symbols_at_its_end(tmp_path):
    pieces("spiece.model", **XLNET)(tmp_path)
    XLNetModel(XLNetConfig(**SIZES)).save_pretrained(tmp_path)
    tokenizer, part = AutoTokenizer.from_pretrained(str(tmp_path)), zoo.load(tmp_path).processor["text"]
    part.max_length, text = 12, "the cat sat on the mat and the dog is old"
    assert part.item(text).tolist() == tokenizer(text, truncation=True, max_length=12)["input_ids"]
    assert part.item(text).tolist()[-2:] == [tokenizer.sep_token_id, tokenizer.cls_token_id]


def test_a_classifier_is_refused_by_the_names_of_its_head(scramble, tmp_path):
    scramble(XLNetForSequenceClassification(XLNetConfig(**SIZES))).save_pretrained(tmp_path)
    with pytest.raises(zoo.ConfigError, match="logits_proj, sequence_summary: belong to a classifier or a head for questions"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"permutation": False}, "permutation: got False"),
        ({"transform": True}, "transform: got True"),
        ({"tied": False}, "tied: got False"),
    ],
)
def test_a_head_that_theirs_does_not_have_is_refused(head, message, tmp_path):
    words = [f"system.head.{key}={value}".lower() for key, value in head.items()]
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.export(zoo.create_system("xlnet_pretraining_nano", words), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_mask_symbols_are_filled_from_all_other_tokens(pair, close):
    """The verb's encoding equals theirs, asked for the words at the mask symbols, which nothing else sees."""
    reference, system = pair
    ids, places = torch.randint(7, 101, (1, 9)), torch.tensor([2, 6])
    turns = torch.zeros_like(ids)
    turns[0, places] = 1
    words = {**asked(turns), "perm_mask": (turns > 0)[:, None, :].float().expand(1, 9, 9)}
    found = system.head._read_around(ids, None, places)
    close(system.head.word_logits(found.tokens[0, places]), reference(input_ids=ids, **words).logits[0])
    assert int(turns.min()) > PADDING

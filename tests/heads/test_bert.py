"""The head of BERT's pre-training: its losses by hand, and the table of words that it shares with the encoder."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.heads.bert import BertHead
from zoo.storage.tensors import read_tensors
from zoo.types import IGNORED, MASKED, Batch, Encoded, EncoderSpec

SIZES = {"name": "bert", "vocab_size": 300, "context_length": 16, "dim": 24, "depth": 1, "num_heads": 3, "separator_id": 2}
SPEC = EncoderSpec("text", 24, vocab_size=50, word_dim=24)


# Of the reference's classes with tied words: with a task on pairs of texts and pooler (``BertForPreTraining``), and ``BertForMaskedLM``.
COUNTS = {
    "bert_tiny": (4_433_468, 4_416_698),
    "bert_mini": (11_267_900, 11_201_594),
    "bert_small": (29_058_876, 28_795_194),
    "bert_medium": (41_668_412, 41_404_730),
    "bert_base_uncased": (110_106_428, 109_514_298),
    "bert_base_cased": (108_932_934, 108_340_804),
    "bert_large_uncased": (336_226_108, 335_174_458),
    "bert_large_cased": (334_661_958, 333_610_308),
    "roberta_base": (None, 124_697_433),
    "roberta_large": (None, 355_412_057),
    "albert_base": (11_813_810, None),
    "albert_large": (17_847_474, None),
    "albert_xlarge": (59_021_490, None),
    "albert_xxlarge": (223_158_450, None),
    "deberta_base": (None, 139_244_121),
}


@pytest.mark.parametrize("name", COUNTS)
def test_encoders_with_this_head_have_the_sizes_of_the_references(name):
    for pool, sequence, expected in zip(("cls_tanh", "cls"), ("next", None), COUNTS[name], strict=True):
        if expected is not None:
            encoder = zoo.create_model(name, device="meta", pool=pool)
            with torch.device("meta"):
                head = BertHead(inputs={"text": EncoderSpec.of(encoder)}, sequence=sequence)
            assert sum(parameter.numel() for part in (encoder, head) for parameter in part.parameters()) == expected


def make_system(encoder=None, **head):
    config = {"encoders": {"text": {**SIZES, **(encoder or {})}}, "head": {"name": "bert", **head}}
    return zoo.create_system({**config, "processor": {"text": {"tokenizer": "word_pieces"}}})


def make_batch(chosen=((0, 2), (0, 5), (1, 1)), labels=(0, 1)):
    ids, hidden = torch.randint(5, 300, (2, 9)), torch.full((2, 9), IGNORED)
    for row, place in chosen:
        hidden[row, place] = ids[row, place]
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    return Batch({"text": ids}, {"text": mask}, {MASKED: hidden, "labels": torch.tensor(labels)})


def test_the_loss_is_the_sum_of_both_means():
    system, batch = make_system(sequence="next"), make_batch()
    output = system(batch)
    encoded = system.encoders["text"](batch.inputs["text"], batch.masks["text"])
    head, hidden = system.head, batch.targets[MASKED]
    every = F.layer_norm(F.gelu(head.dense(encoded.tokens)), (24,), head.norm.weight, head.norm.bias, 1e-12)
    logits = every @ system.encoders["text"].embedding.weight.T + head.bias
    words = F.cross_entropy(logits.flatten(0, 1), hidden.flatten(), ignore_index=IGNORED)
    pairs = F.cross_entropy(encoded.pooled @ head.sequence.weight.T + head.sequence.bias, batch.targets["labels"])
    torch.testing.assert_close(output.loss, words + pairs)
    torch.testing.assert_close(output.metrics["mlm_perplexity"], words.exp())
    assert output.metrics["mlm_accuracy"] == (logits.argmax(-1) == hidden)[hidden != IGNORED].float().mean()
    assert output.metrics.keys() >= {"mlm_loss", "nsp_loss", "nsp_accuracy"} and output.outputs["logits"].shape == (3, 300)


def test_logits_are_computed_at_chosen_places_alone():
    system, rows = make_system(), []
    system.head.dense.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    system(make_batch())
    assert rows == [3]


def test_a_batch_without_a_chosen_place_has_no_loss_and_no_gradient_but_reaches_every_parameter():
    system = make_system()
    output = system(make_batch(chosen=()))
    output.loss.backward()
    assert output.loss.item() == 0 and "mlm_accuracy" not in output.metrics
    assert all(p.grad is not None and not p.grad.any() for p in system.head.parameters())


def test_the_table_is_shared_with_gradients_from_both_sides_and_saved_once(tmp_path):
    system, batch = make_system(sequence="next"), make_batch()
    table = system.encoders["text"].embedding.weight
    assert not any("embedding" in name for name, _ in system.head.named_parameters())
    system(batch).loss.backward()
    unseen = torch.ones(300, dtype=torch.bool)
    unseen[batch.inputs["text"]] = False
    assert table.grad[unseen].abs().sum() > 0  # through the decoder alone
    zoo.save(system, tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    assert [name for name, tensor in tensors.items() if tensor.shape == (300, 24)] == ["encoders.text.embedding.weight"]
    again = zoo.load(tmp_path)
    torch.testing.assert_close(again(batch).loss, system.eval()(batch).loss, rtol=0, atol=0)


def test_a_copy_of_a_system_shares_its_own_table():
    system, batch = make_system().eval(), make_batch()
    other = copy.deepcopy(system)  # as the average of weights is made
    with torch.no_grad():
        other.encoders["text"].embedding.weight.mul_(2)
    assert not torch.equal(other(batch).outputs["logits"], system(batch).outputs["logits"])
    assert other.head._words[0] is other.encoders["text"]


def test_a_narrow_table_is_shared_by_a_narrow_projection():
    system = make_system({"name": "albert", "embedding_dim": 8}, sequence="order", activation="gelu_tanh")
    assert system.head.dense.weight.shape == (8, 24) and system.head.bias.shape == (300,)
    assert "sop_accuracy" in system(make_batch()).metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"masked_lm": False}, "nothing to learn"),
        ({"sequence": "nxt"}, "there is no 'nxt'; did you mean 'next'"),
        ({"vocab_size": 60}, "vocab_size: 60, but the text encoder has 50"),
        (
            {"inputs": {"text": replace(SPEC, pooled=False)}, "sequence": "next"},
            "reads a pooled vector",
        ),
        ({"inputs": {"text": EncoderSpec("text", 24, vocab_size=50)}}, "no word embedding that a head can share"),
        ({"inputs": {"text": EncoderSpec("text", 24)}}, "the text encoder has no vocabulary size to take"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(zoo.ConfigError, match=message):
        BertHead(**{"inputs": {"text": SPEC}, **words})


def test_a_batch_without_what_is_learnt_is_refused():
    system, batch = make_system(sequence="next"), make_batch()
    for name, message in ((MASKED, "set data.masking="), ("labels", "data.source.pairs=next")):
        rest = {key: value for key, value in batch.targets.items() if key != name}
        with pytest.raises(zoo.DataError, match=message):
            system(Batch(batch.inputs, batch.masks, rest))
    with pytest.raises(zoo.DataError, match="labels go up to 7"):
        system(make_batch(labels=(0, 7)))
    with pytest.raises(zoo.ConfigError, match="is connected to no encoder; build a system"):
        encoded = Encoded(torch.zeros(2, 9, 24), torch.zeros(2, 24), torch.ones(2, 9, dtype=torch.bool))
        BertHead(inputs={"text": SPEC})({"text": encoded}, make_batch())


def test_masks_are_filled_with_the_likeliest_tokens():
    system = make_system()
    system.processor.fit(["the cat sat on the mat", "a dog ran to the park", "cats and dogs"])
    symbol = system.processor["text"].mask_token_id
    ids, _ = system.processor["text"](["the [MASK] sat on [MASK]"])
    found = system.fill_mask("the [MASK] sat on [MASK]", top_k=3)
    with torch.no_grad():
        tokens = system.encoders["text"](ids).tokens[0]
        shares = system.head.word_logits(tokens[ids[0] == symbol]).softmax(-1)
    assert len(found) == 1 and [len(guesses) for guesses in found[0]] == [3, 3]
    assert found[0][1][0][1] == pytest.approx(shares[1].max().item(), abs=1e-6)
    with pytest.raises(zoo.DataError, match=r"contains no mask symbol \[MASK\]"):
        system.fill_mask(["nothing hidden"])

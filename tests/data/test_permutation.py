"""Permutation language modelling: spans, turns of the data, and the head that predicts in their order."""

from collections import Counter

import numpy as np
import pytest
import torch
from system_batches import WORDS, batch_of

import zoo
from zoo.assembly.compose import compose
from zoo.data.masking import LONGEST_SPAN, Masking, _spans
from zoo.layers.turns import predicted_places, seen_by_content, seen_by_queries
from zoo.types import IGNORED, MASKED, TURNS, Batch

XLNET = {"permutation": True, "unit": "spans", "probability": 1 / 6}


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    made = zoo.create_system("xlnet_pretraining_nano").eval()
    made.processor.fit(WORDS)
    return made


def make(system, **changes):
    part = system.processor["text"]
    return Masking(tokenizer=part.tokenizer, mask_token_id=part.mask_token_id, **{**XLNET, **changes})


def texts_of(system, texts):
    ids, mask = system.processor["text"](texts)
    return Batch({"text": ids}, {"text": mask})


def test_masks_are_those_of_the_worked_example():
    turns = torch.tensor([[0, 2, 0, 1]])
    places, predicted = predicted_places(turns)
    assert places.tolist() == [[1, 3]] and predicted.all()
    assert seen_by_content(turns)[0].int().tolist() == [[1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 1, 1]]
    assert seen_by_queries(turns, places)[0].int().tolist() == [[1, 0, 1, 1], [1, 0, 1, 0]]


def test_spans_are_a_sixth_of_the_pieces_and_one_to_five_long():
    generator = np.random.default_rng(0)
    chosen = [np.sort(_spans(510, 1 / 6, generator)) for _ in range(300)]
    assert all(len(set(each.tolist())) == len(each) and 0 <= each[0] and each[-1] < 510 for each in chosen)
    assert abs(np.mean([len(each) for each in chosen]) / 510 - 1 / 6) < 0.01
    runs = [len(run) for each in chosen for run in np.split(each, 1 + np.flatnonzero(np.diff(each) > 1))]
    shares = {length: number / len(runs) for length, number in Counter(runs).items()}
    # Two spans that touch count as one here, which is why lengths of 1 to 5 fall a little below a fifth each.
    assert all(0.15 < shares[length] < 0.21 for length in range(1, LONGEST_SPAN + 1)), shares
    assert all(len(_spans(count, 1 / 6, generator)) >= 1 for count in range(1, 40) for _ in range(20))


def test_chosen_pieces_stay_in_place_and_come_last_in_the_order(system):
    batch = texts_of(system, [" ".join(WORDS * 2), "and more"])
    found = make(system)(batch, [(0, 0, row) for row in range(2)])
    labels, turns = found.targets[MASKED], found.targets[TURNS]
    assert torch.equal(found.inputs["text"], batch.inputs["text"]) and ((labels != IGNORED) == (turns > 0)).all() and turns.min() == 0
    assert torch.equal(labels[turns > 0], batch.inputs["text"][turns > 0]) and not ((turns > 0) & (batch.inputs["text"] <= 4)).any()
    for row in turns:
        assert sorted(row[row > 0].tolist()) == list(range(1, int((row > 0).sum()) + 1))


def test_the_order_is_another_one_for_each_item_and_epoch(system):
    masking, batch = make(system, probability=0.5), texts_of(system, [" ".join(WORDS * 2)] * 2)
    first = masking(batch, [(0, 0, 0), (0, 0, 1)]).targets[TURNS]
    assert not torch.equal(first[0], first[1]) and not torch.equal(masking(batch, [(0, 1, 0), (0, 1, 1)]).targets[TURNS], first)
    assert torch.equal(masking(batch, [(0, 0, 0), (0, 0, 1)]).targets[TURNS], first)


def test_the_loss_of_a_text_does_not_depend_on_padding_or_neighbours(system):
    masking, texts = make(system), [" ".join(WORDS * 2), "what is it? and more"]
    together = system(masking(texts_of(system, texts), [(0, 0, 0), (0, 0, 1)])).outputs["logits"]
    alone = [system(masking(texts_of(system, [text]), [(0, 0, row)])).outputs["logits"] for row, text in enumerate(texts)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_the_hidden_word_itself_changes_no_logit_of_its_own(system):
    """The only predicted token: neither its id nor a change of it may reach its logits."""
    ids = torch.randint(5, 60, (1, 9))
    turns, other = torch.zeros_like(ids), ids.clone()
    turns[0, 4], other[0, 4] = 1, 3
    logits = [
        system(Batch({"text": each}, {}, {MASKED: torch.where(turns > 0, 7, IGNORED), TURNS: turns})).outputs["logits"]
        for each in (ids, other)
    ]
    assert torch.equal(*logits) and logits[0].shape == (1, 2048)


def test_a_few_steps_lower_the_loss_and_train_every_parameter():
    torch.manual_seed(0)
    system = zoo.create_system("xlnet_pretraining_nano")
    system.processor.fit(WORDS)
    batch = make(system, probability=0.5)(texts_of(system, [" ".join(WORDS), *WORDS[:3]]), [(0, 0, row) for row in range(4)])
    optimizer, losses = torch.optim.Adam(system.parameters(), 3e-3), []
    for _ in range(25):
        loss = system(batch).loss
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        idle = [name for name, parameter in system.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum()]
        assert not idle, idle
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0], losses


def test_fill_mask_reads_the_words_around_each_mask_symbol(system):
    """The id of the symbol itself is of no effect, as in training, where no symbol stands in the texts."""
    part = system.processor["text"]
    found = system.fill_mask("what [MASK] it? and [MASK]", top_k=3)
    assert [len(guesses) for guesses in found[0]] == [3, 3]
    ids, mask = part(["what [MASK] it? and [MASK]"])
    turns = (ids == part.mask_token_id).long()
    tokens = system.encoders["text"](torch.where(turns > 0, 3, ids), torch.where(mask, turns, -(2**31))).tokens
    shares = system.head.word_logits(tokens[turns > 0]).softmax(-1).topk(3)
    assert [share for guesses in found[0] for _, share in guesses] == pytest.approx(shares.values.flatten().tolist(), abs=1e-6)


def test_what_does_not_fit_together_is_refused(system):
    with pytest.raises(zoo.ConfigError, match="permutation: true beside directions"):
        make(system, directions={"left_to_right": 1})
    with pytest.raises(zoo.ConfigError, match="permutation: true needs masked_lm: true and sequence: null; got True and 'next'"):
        zoo.create_system("xlnet_pretraining_nano", ["system.head.sequence=next"])
    with pytest.raises(zoo.DataError, match="data.masking.permutation=true"):
        system(texts_of(system, ["and more"]))
    with pytest.raises(zoo.ConfigError, match="encoder Bert has no second stream"):
        wrong = zoo.create_system("bert_pretraining_nano", ["system.head.permutation=true", "system.head.sequence=null"])
        wrong(batch_of(wrong))
    masked = zoo.create_system("xlnet_pretraining_nano", ["system.head.permutation=false"])
    masked.processor.fit(WORDS)
    with pytest.raises(zoo.ConfigError, match="set system.head.permutation=true, or data.masking.permutation=false"):
        masked(make(system)(texts_of(masked, ["and more"]), [(0, 0, 0)]))


@pytest.mark.parametrize(
    ("system", "masking", "words"),
    [
        ("xlnet_pretraining_nano", "{probability: 0.15}", "permutation: False, but head BertHead has permutation: True"),
        ("roberta_pretraining_nano", "{permutation: true}", "permutation: True, but head BertHead has permutation: False"),
    ],
)
def test_a_check_before_the_run_compares_data_and_head(system, masking, words, tmp_path):
    with pytest.raises(zoo.ConfigError, match=words):
        zoo.check(
            compose(
                "train",
                [f"system={system}", "data=documents", f"data.source.path={tmp_path}", f"data.masking={masking}", "data.source.pairs=none"],
            )
        )

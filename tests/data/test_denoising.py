"""Denoising objectives: T5's span corruption, BART's noises, MASS, UL2, prefix language modelling."""

import numpy as np
import pytest
import torch

import zoo
from zoo.data.denoising import infilling, spans
from zoo.data.denoising.denoising import KINDS, Denoising
from zoo.data.denoising.fragment import mask_fragment
from zoo.errors import ConfigError
from zoo.types import SUPERVISED, TARGET_IDS, TARGET_POSITIONS


def sentinel(number):
    return 32099 - number


def generator(seed=0):
    return np.random.default_rng(seed)


def test_span_corruption_of_the_sheet_s_row():
    shown, target = spans.with_sentinels([1, 2, 3, 4, 5, 6, 7, 8], [(2, 2), (3, 1)], sentinel)
    assert shown == [1, 2, 32099, 5, 6, 7, 32098] and target == [32099, 3, 4, 32098, 8]


@pytest.mark.parametrize(("inputs", "length", "targets"), [(512, 568, 114), (1024, 1137, 229), (256, 284, 58), (128, 141, 29)])
def test_lengths_that_fill_an_input(inputs, length, targets):
    assert spans.text_length(inputs) == (length, targets)


@pytest.mark.parametrize(("mean_span", "share", "length", "targets"), [(3.0, 0.5, 766, 512), (8.0, 0.15, 588, 100), (64.0, 0.15, 600, 92)])
def test_lengths_of_ul2_s_denoisers(mean_span, share, length, targets):
    assert spans.text_length(512, share=share, mean_span=mean_span) == (length, targets)


def test_noise_of_568_tokens():
    assert spans.noise_counts(568, share=0.15, mean_span=3.0) == (85, 28)
    assert spans.noise_counts(2, share=0.15, mean_span=3.0) == (1, 1)
    assert spans.noise_counts(10, share=0.25, mean_span=3.0)[0] == 2  # 2.5 is rounded to the even number


def restored(shown, target):
    """Put the spans of a target back into the input."""
    found, parts, number = [], {}, None
    for token in target:
        if token > 32000:
            number = token
            parts[number] = []
        else:
            parts[number].append(token)
    for token in shown:
        found += parts.pop(token) if token > 32000 else [token]
    assert not parts
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 7, 31, 568])
@pytest.mark.parametrize("seed", range(4))
def test_input_and_target_hold_the_text_exactly_once(length, seed):
    ids = list(range(100, 100 + length))
    shown, target = spans.corrupt_spans(ids, sentinel, generator(seed))
    assert restored(shown, target) == ids
    assert [token for token in shown if token > 32000] == [token for token in target if token > 32000]
    if length == 568:
        assert (len(shown) + 1, len(target) + 1) == (512, 114)
    assert restored(*spans.corrupt_tokens(ids, sentinel, generator(seed))) == ids


def test_all_compositions_are_equally_likely():
    """4 = 1+3 = 2+2 = 3+1."""
    draws = [tuple(spans.composition(4, 2, generator(seed))) for seed in range(600)]
    assert {each: draws.count(each) > 150 for each in set(draws)} == {(1, 3): True, (2, 2): True, (3, 1): True}


def test_the_cut_of_a_prefix_is_uniform_or_fixed():
    cuts = {len(spans.split_prefix(range(5), generator(seed))[0]) for seed in range(60)}
    assert cuts == {1, 2, 3, 4}
    assert spans.split_prefix(list(range(8)), generator(), suffix_share=0.25) == ([0, 1, 2, 3, 4, 5], [6, 7])


def test_infilling_keeps_the_order_and_the_budget():
    ids = list(range(10, 110))
    masks, inserted = [], 0
    for seed in range(50):
        shown = infilling.infill(ids, 0, generator(seed))
        kept = [token for token in shown if token]
        assert kept == sorted(kept) and len(kept) == 70
        masks.append(shown.count(0))
        inserted += any(a + 1 == c for a, b, c in zip(shown, shown[1:], shown[2:], strict=False) if b == 0)
    assert 8 < np.mean(masks) < 14 and inserted  # 30 tokens in spans of 3 on average, of which some have length 0


def test_span_lengths_follow_poisson():
    counts = np.bincount(generator().poisson(infilling.MEAN_SPAN, 200_000), minlength=6)[:6] / 200_000
    np.testing.assert_allclose(counts, [0.0498, 0.1494, 0.2240, 0.2240, 0.1680, 0.1008], atol=0.003)


def test_sentences_are_permuted_whole():
    ids = [1, 9, 2, 3, 9, 4]
    assert infilling.sentences(ids, {9}) == [[1, 9], [2, 3, 9], [4]]
    orders = {tuple(infilling.permute_sentences(ids, {9}, generator(seed))) for seed in range(80)}
    assert len(orders) == 6 and (2, 3, 9, 4, 1, 9) in orders


def test_barts_other_noises():
    ids = list(range(1, 21))
    masked = infilling.mask_tokens(ids, 0, generator(), share=0.25)
    assert masked.count(0) == 5 and all(a in (0, b) for a, b in zip(masked, ids, strict=True))
    kept = infilling.delete_tokens(ids, generator(), share=0.25)
    assert len(kept) == 15 and kept == sorted(kept)
    turned = infilling.rotate(ids, generator(1))
    assert sorted(turned) == ids and turned != ids and turned[turned.index(20) + 1 :] + turned[: turned.index(20) + 1] == ids


def test_mass_predicts_a_fragment_at_its_positions():
    found = mask_fragment([11, 12, 13, 14, 15, 16, 17, 18], 0, [99], generator(2), mask_share=1.0)
    first = found.shown.index(0)
    assert found.shown == [11, 12, 13, 14, 15, 16, 17, 18][:first] + [0] * 4 + [11, 12, 13, 14, 15, 16, 17, 18][first + 4 :]
    assert found.target == [0, *range(11 + first, 15 + first)] and found.positions == list(range(first, first + 5))
    everything = mask_fragment([5, 6, 7], 0, [99], generator(), share=1.0, mask_share=1.0)
    assert everything.shown == [0, 0, 0] and everything.target == [0, 5, 6, 7]  # all tokens: GPT's task


def test_ul2_draws_each_of_its_seven_denoisers():
    modes = [7, 8, 9]
    draws = [spans.mixture_of_denoisers(list(range(100, 200)), sentinel, modes, generator(seed)) for seed in range(120)]
    lengths = {(shown[0], len(target)) for shown, target in draws}
    assert {mode for mode, _ in lengths} == set(modes)
    assert lengths >= {(7, 20), (7, 17), (8, 25), (9, 67), (9, 56), (9, 16), (9, 51)}


@pytest.fixture(scope="module")
def system():
    changes = [f"+system.processor.{part}.reserved_ids=103" for part in ("text", "target_text")]
    found = zoo.create_system("transformer_nano", changes).eval()
    found.processor.fit(["a sentence. and another! is it one?", "words of a text that is longer than the others"] * 3)
    return found


TEXTS = ["a sentence. and another! is it one? " * 4, "words of a text", "a"]


def noise(system, **settings):
    from zoo.runs.data_setup import make_denoising

    return make_denoising(settings, system)


def text_batch(system):
    token_ids, mask = system.processor["text"](TEXTS)
    return zoo.Batch({"text": token_ids}, {"text": mask}, {}, ["0", "1", "2"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_trains_and_depends_on_the_item_s_seed_alone(system, kind):
    made, batch, seeds = noise(system, kind=kind), text_batch(system), [(0, 0, 5), (0, 0, 6), (0, 0, 7)]
    found = made(batch, seeds)
    loss = system(found).loss.detach()
    assert torch.isfinite(loss) and float(loss) > 1
    alone = made(zoo.Batch({"text": batch.inputs["text"][1:2]}, {"text": batch.masks["text"][1:2]}, {}, ["1"]), seeds[1:2])
    length = alone.targets[TARGET_IDS].shape[1]
    assert found.targets[TARGET_IDS][1, :length].equal(alone.targets[TARGET_IDS][0])
    supervised = found.targets[SUPERVISED]
    assert not supervised[:, 0].any() and (TARGET_POSITIONS in found.targets) == (kind == "mass")
    epochs = [made(batch, [(0, epoch, 5), (0, epoch, 6), (0, epoch, 7)]).inputs["text"].tolist() for epoch in range(6)]
    assert any(each != epochs[0] for each in epochs)  # drawn again in every epoch


def test_clean_targets_are_the_text(system):
    found = noise(system, kind="bart")(text_batch(system), [(0, 0, 0)] * 3)
    clean = system.processor["target_text"](TEXTS)
    assert found.targets[TARGET_IDS].equal(clean[TARGET_IDS]) and found.targets[SUPERVISED].equal(clean[SUPERVISED])


def test_reserved_ids_are_needed():
    plain = zoo.create_system("transformer_nano")
    plain.processor.fit([f"word{number} " * 3 for number in range(400)])
    with pytest.raises(ConfigError, match="needs the ids 412 to 511 for itself, but 412 is .*reserved_ids=100"):
        noise(plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kind": "span"}, "kind: there is no 'span'"), ({"share": 1.5}, "share 1.5"), ({"spans": 3}, "spans")],
)
def test_wrong_settings_are_refused(system, settings, message):
    with pytest.raises(ConfigError, match=message):
        noise(system, **settings)


def test_denoising_needs_targets():
    with pytest.raises(ConfigError, match="data.denoising: makes targets of texts, which needs a text encoder"):
        noise(zoo.create_system("caption_nano"), kind="spans")


def test_t5_s_own_sentinels():
    """32099 downwards, in a vocabulary whose tokenizer holds them as special tokens."""
    from tokenizers import AddedToken, Tokenizer, models

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}, unk_token="<unk>"))
    words.add_special_tokens([AddedToken("<pad>", special=True), AddedToken("</s>", special=True)])
    made = Denoising(
        tokenizer=words, vocab_size=32128, start_token_id=0, eot_token_id=1, pad_token_id=0, target_length=512, first_sentinel=32099
    )
    shown, target, _ = made.noised([3, 4] * 10, generator())
    assert shown[-1] == 32099 and target[0] == 0 and target[1] == 32099 and target[-1] == 1

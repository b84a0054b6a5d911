"""Head seq2seq: losses, counts of published sizes, generation, any encoder; tests/convert/test_seq2seq.py compares with transformers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.errors import ConfigError, DataError
from zoo.language.decoding.constraints import repeating
from zoo.language.decoding.sampling import LENGTH_FORMS, Sampling
from zoo.layers.memory import Memory, MemoryCache
from zoo.losses.smoothing import smoothed_cross_entropy
from zoo.training.schedule import learning_rate_at
from zoo.types import SUPERVISED, TARGET_IDS, TARGET_POSITIONS, Batch

# Computed from transformers 5.17, without the two fixed tables of positions that its MarianMT and Pegasus count.
COUNTS = {
    **{"transformer_base": 63_082_496, "transformer_big": 214_245_376, "marian": 74_410_496 - 2 * 262_144},
    **{"bart_base": 139_420_416, "bart_large": 406_291_456, "mbart_cc25": 610_851_840, "mbart_50": 610_879_488},
    **{"pegasus_large": 570_797_056 - 2 * 1024 * 1024},
    **{"t5_seq2seq_small": 60_506_624, "t5_seq2seq_base": 222_903_552, "t5_seq2seq_large": 737_668_096},
    **{"t5_seq2seq_3b": 2_851_598_336, "t5_seq2seq_11b": 11_307_321_344},
    **{"t5_v1_1_seq2seq_small": 76_961_152, "t5_v1_1_seq2seq_base": 247_577_856, "t5_v1_1_seq2seq_large": 783_150_080},
    **{"t5_v1_1_seq2seq_xl": 2_849_757_184, "t5_v1_1_seq2seq_xxl": 11_135_332_352},
    **{"mt5_small": 300_176_768, "mt5_base": 582_401_280, "mt5_large": 1_229_581_312},
    **{"mt5_xl": 3_742_619_648, "mt5_xxl": 12_921_057_280},
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_equal_the_published_models(name):
    assert zoo.summarize(name).parameters == COUNTS[name]


def counted(name, *changes):
    """Parameters of a system on the meta device: of all, and of its encoder's and decoder's blocks."""
    with torch.device("meta"):
        system = zoo.create_system(name, list(changes))
    stacks = (system.encoders["text"].blocks, system.head.decoder.blocks)
    return tuple(sum(parameter.numel() for parameter in part.parameters()) for part in (system, *stacks))


@pytest.mark.parametrize(("name", "of_32k"), [("transformer_base", 60_522_496), ("transformer_big", 209_125_376)])
def test_blocks_of_2017_are_those_of_torch_without_its_last_norms(name, of_32k):
    """Six blocks of 3,152,384 and 4,204,032 parameters (base), 12,596,224 and 16,796,672 (big); a table of 32,000 words beside them."""
    blocks = {"transformer_base": (3_152_384, 4_204_032), "transformer_big": (12_596_224, 16_796_672)}[name]
    whole, encoder, decoder = counted(name, "system.encoders.text.vocab_size=32000")
    assert (whole, encoder, decoder) == (of_32k, 6 * blocks[0], 6 * blocks[1])
    dim, heads, hidden = {"transformer_base": (512, 8, 2048), "transformer_big": (1024, 16, 4096)}[name]
    theirs = torch.nn.Transformer(dim, heads, 6, 6, hidden, batch_first=True, device="meta")
    assert encoder + decoder == sum(parameter.numel() for parameter in theirs.parameters()) - 4 * dim
    assert encoder + decoder == {"transformer_base": 44_138_496, "transformer_big": 176_357_376}[name]


def test_another_vocabulary_of_marian_changes_its_table_alone():
    whole, encoder, decoder = counted("marian", "system.encoders.text.vocab_size=59514")
    assert whole == 75_133_952 - 2 * 262_144 == 44_138_496 + 59_514 * 512 == encoder + decoder + 59_514 * 512


@pytest.mark.parametrize(
    ("size", "expected"),
    [("small", 60_511_616), ("base", 222_903_552), ("large", 750_251_008), ("xl", 2_783_959_040), ("xxl", 11_003_736_064)],
)
def test_t5_1_1_with_tied_words_has_the_size_of_the_references_class(size, expected):
    assert counted(f"t5_v1_1_seq2seq_{size}", "system.head.tied=true")[0] == expected


def test_label_smoothing_in_both_conventions():
    logits, label = torch.tensor([[2.0, 0.5, -1.0, 0.0, 1.0]]), torch.tensor([0])
    assert float(smoothed_cross_entropy(logits, label, smoothing=0.1)) == pytest.approx(0.7244379, abs=1e-6)
    assert float(smoothed_cross_entropy(logits, label, smoothing=0.1, over="others")) == pytest.approx(0.7619379, abs=1e-6)
    both = smoothed_cross_entropy(logits.repeat(2, 1), torch.tensor([0, 3]), smoothing=0.0, over="others")
    assert float(both) == pytest.approx(float(F.cross_entropy(logits.repeat(2, 1), torch.tensor([0, 3]), reduction="sum")))


def test_noam_is_the_inverse_root_with_the_peak_of_width_and_warmup():
    settings = {"peak": (512 * 4000) ** -0.5, "final": 0.0, "warmup_steps": 4000, "max_steps": 100_000, "schedule": "inverse_sqrt"}
    goldens = {1: 1.7469e-7, 4000: 6.98771e-4, 8000: 4.94106e-4, 100_000: 1.39754e-4}
    for step, rate in goldens.items():
        assert learning_rate_at(step - 1, **settings) == pytest.approx(rate, rel=1e-4)  # their first step is 1, ours 0
    big = {**settings, "peak": (1024 * 4000) ** -0.5}
    assert learning_rate_at(3999, **big) == pytest.approx(4.94106e-4, rel=1e-5)
    assert learning_rate_at(4000, **big) < learning_rate_at(3999, **big)


def test_gnmt_divides_by_the_paper_s_penalty():
    sampling = Sampling(num_beams=4, length_penalty=0.6, length_form="gnmt")
    found = [sampling.length_divisor(length) for length in (1, 5, 10, 20, 50)]
    assert found == pytest.approx([1, 1.358655, 1.732862, 2.354362, 3.778565], abs=1e-6)
    assert Sampling(num_beams=4, length_penalty=2.0).length_divisor(3) == 9


def test_both_length_forms_rank_differently():
    """Log-probabilities -2 of two tokens and -4.4 of five: transformers' divisor prefers the long text, the paper's the short one."""
    scores = {
        form: [p / Sampling(num_beams=2, length_form=form).length_divisor(n) for n, p in ((2, -2.0), (5, -4.4))] for form in LENGTH_FORMS
    }
    assert scores["power"] == pytest.approx([-1.0, -0.88]) and scores["gnmt"] == pytest.approx([-1.714286, -2.64])


def test_tokens_that_complete_a_known_run():
    assert repeating([1, 2, 3, 1, 2], 3) == [3]
    assert repeating([1, 2, 1, 3, 1], 2) == [2, 3]
    assert repeating([4, 5], 1) == [4, 5]
    assert repeating([4], 3) == []


def test_a_memory_follows_the_rows_of_its_cache():
    keys = torch.arange(3.0).view(1, 3, 1, 1, 1)
    sizes = {"depth": 1, "num_heads": 1, "length": 4, "head_dim": 1}
    cache = MemoryCache(Memory(keys, keys), batch_size=3, **sizes)
    cache.select(torch.arange(3).repeat_interleave(2))
    assert cache.memory.keys.flatten().tolist() == [0, 1, 2]  # two beams share a source without copies
    cache.select(torch.tensor([1, 0, 5, 5]))
    assert cache.memory.keys.flatten().tolist() == [0, 2] and cache.sources.tolist() == [0, 0, 1, 1]
    cache.select(torch.tensor([2, 0, 1]))
    assert cache.memory.keys.flatten().tolist() == [2, 0, 0] and cache.sources.tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def trained():
    """A small translator of made-up words that has learnt its eight sentences by heart."""
    torch.manual_seed(0)
    words = ["one two", "two one", "three", "one three two", "two two three", "three one", "one one", "two three"]
    answers = [" ".join(f"w{len(word)}{word[0]}" for word in reversed(text.split())) for text in words]
    system = zoo.create_system("transformer_nano")
    system.processor.fit([*words, *answers])
    batch = system.processor(text=words, target_text=answers)
    optimizer = torch.optim.Adam(system.train().parameters(), lr=3e-3)
    for _ in range(120):
        loss = system(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return system.eval(), words, answers


@pytest.mark.card("transformer_nano", "batch-invariant")
@pytest.mark.parametrize("settings", [{}, {"num_beams": 4, "length_form": "gnmt", "length_penalty": 0.6}])
def test_it_writes_what_it_learnt_in_any_batch(trained, settings):
    system, words, answers = trained
    assert system.generate(words, **settings) == answers
    assert system.generate(words, batch_size=3, **settings) == answers
    assert system.generate([[words[2]]], **settings) == [answers[2]]


def test_sampling_depends_on_seed_and_row_alone(trained):
    system, words, _ = trained
    settings = {"temperature": 2.0, "seed": 3, "max_new_tokens": 8}
    assert system.generate(words, **settings) == system.generate(words, batch_size=2, **settings)


def test_saved_and_loaded_it_writes_the_same(trained, tmp_path):
    system, words, answers = trained
    zoo.save(system, tmp_path / "saved")
    assert zoo.load(tmp_path / "saved").generate(words) == answers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 4}, "generate: there is no setting 'beams'; allowed are"),
        ({"length_form": "gnmt"}, "length_form: 'gnmt' has no effect without beams"),
        ({"num_beams": 2, "length_form": "wu"}, "length_form: there is no 'wu'"),
        ({"first_token_id": -1}, "first_token_id: -1; allowed is a token id"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size: -1; allowed is 0"),
    ],
)
def test_wrong_settings_of_generation_are_refused(trained, settings, message):
    with pytest.raises(ConfigError, match=message):
        trained[0].generate(["one"], **settings)


def test_one_string_is_no_list(trained):
    with pytest.raises(DataError, match="inputs: got 'one'; give a list"):
        trained[0].generate("one")


@pytest.mark.parametrize(("name", "modality"), [("caption_nano", "image"), ("speech_seq2seq_nano", "audio")])
def test_image_and_audio_become_text_and_are_learnt(name, modality):
    torch.manual_seed(0)
    system, texts = zoo.create_system(name).eval(), ["some words", "to write"]
    system.processor.fit(texts)
    pictures = [np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)]
    inputs = pictures if modality == "image" else [torch.randn(8000).numpy(), torch.sin(torch.arange(5000) / 9).numpy()]
    together = system.generate(inputs, max_new_tokens=5)
    assert len(together) == 2 and together[1] == system.generate(inputs[1:], max_new_tokens=5)[0]
    batch = system.processor(**{modality: inputs, "target_text": texts})
    optimizer, losses = torch.optim.Adam(system.train().parameters(), lr=3e-3), []
    for _ in range(15):
        loss = system(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def target_batch(**changes):
    ids = torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])
    batch = Batch({"text": torch.tensor([[5, 6, 7], [8, 9, 0]])}, {"text": torch.tensor([[True] * 3, [True, True, False]])})
    batch.targets |= {TARGET_IDS: ids, SUPERVISED: torch.tensor([[False, True, True, True], [False, True, True, False]]), **changes}
    return batch


def test_positions_of_targets_may_be_given():
    """MASS keeps the positions of the fragment that it predicts."""
    system = zoo.create_system("transformer_nano").eval()
    plain = system(target_batch()).loss
    same = system(target_batch(**{TARGET_POSITIONS: torch.arange(4).expand(2, -1)})).loss
    other = system(target_batch(**{TARGET_POSITIONS: torch.arange(5, 9).expand(2, -1)})).loss
    torch.testing.assert_close(plain, same)
    assert abs(float((plain - other).detach())) > 1e-4
    with pytest.raises(DataError, match="positions below context_length 64"):
        system(target_batch(**{TARGET_POSITIONS: torch.arange(64, 68).expand(2, -1)}))


def test_missing_targets_are_named():
    system = zoo.create_system("transformer_nano").eval()
    batch = target_batch()
    del batch.targets[TARGET_IDS]
    with pytest.raises(DataError, match=r"targets\['target_ids'\].*the processor 'target_text' makes them"):
        system(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("system.head.vocab_size=100", "shared_words: true, but the encoder's word table is .512, 64."),
        ("system.head.label_smoothing=1", "label_smoothing: 1.0; allowed is 0 to below 1"),
        ("system.head.num_heads=3", "num_heads: 3 does not divide dim 64"),
        ("system.head.positions=learnt", "positions: there is no 'learnt'"),
        ("system.processor.target_text.start_token_ids=[]", "start_token_ids: ..; allowed are one or two ids"),
        ("+system.processor.target_text.generation={beams: 2}", "generation: there is no setting 'beams'"),
    ],
)
def test_wrong_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        zoo.create_system("transformer_nano", [change])


def test_an_image_encoder_has_no_words_to_share():
    with pytest.raises(ConfigError, match="shared_words: true, but the image encoder has no word table"):
        zoo.create_system("caption_nano", ["system.head.shared_words=true"])

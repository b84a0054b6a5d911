"""Transcripts as token ids, against openai-whisper's tokenizers, and refused inputs."""

import pytest
import torch
import whisper.tokenizer

from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError, ItemError, WeightsError
from zoo.interop.whisper.write import whole_tokenizer
from zoo.processors.tokenizers.whisper_tokens import LANGUAGES, SpecialIds, find_tiktoken, tiktoken_tokenizer
from zoo.processors.transcript import TranscriptProcessor
from zoo.types import SUPERVISED, Batch, Sample

pytestmark = [  # the reference leaves its files open
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
KINDS = pytest.mark.parametrize("kind", ["english", "99 languages", "100 languages"])
SETTINGS = {
    "english": {"vocab_size": 51864},
    "99 languages": {"vocab_size": 51865, "multilingual": True},
    "100 languages": {"vocab_size": 51866, "multilingual": True, "num_languages": 100},
}
TEXTS = (" Hello, world.", "  two  spaces\nand lines ", " Naïve café — 東京 ♪ 123's", "<|en|> spelt", "")
SMALL = {"vocab_size": 40, "context_length": 30, "tokenizer": "characters", "num_languages": 2, "num_timestamps": 5}


@pytest.fixture(scope="session")
def base():
    """The two base vocabularies, from the files of the reference."""
    return {multilingual: tiktoken_tokenizer(find_tiktoken(multilingual=multilingual)) for multilingual in (False, True)}


@pytest.fixture
def published(base):
    def build(kind):
        part = TranscriptProcessor(context_length=448, tokenizer="given", **SETTINGS[kind])
        part.use(base[part.is_multilingual])
        return part

    return build


def reference_of(kind):
    return whisper.tokenizer.get_tokenizer(kind != "english", num_languages=100 if kind.startswith("100") else 99)


@pytest.fixture
def small():
    part = TranscriptProcessor(**SMALL)
    part.fit(["abc de", "ba, c"])
    return part


@KINDS
def test_special_tokens_have_the_ids_of_the_reference(kind, published):
    part, reference = published(kind), reference_of(kind)
    for name in ("eot", "sot", "sot_prev", "sot_lm", "no_speech", "no_timestamps", "transcribe", "translate", "timestamp_begin"):
        assert getattr(part, name) == getattr(reference, name), name
    assert part.ids.names() == {name.replace("nocaptions", "nospeech"): i for name, i in reference.special_tokens.items()}
    assert tuple(part.start()) == (reference.sot_sequence if kind == "english" else (reference.sot, *part.start()[1:]))


@KINDS
def test_languages_and_tasks_begin_as_in_the_reference(kind, published):
    part = published(kind)
    if kind == "english":
        assert part.languages == {} and part.start("en", "transcribe") == [50257]
        return
    reference = whisper.tokenizer.get_tokenizer(True, num_languages=len(part.languages), language="de", task="translate")
    assert tuple(part.start("de", "translate")) == reference.sot_sequence
    assert part.languages == dict(zip(reference.all_language_codes, reference.all_language_tokens, strict=True))
    assert LANGUAGES == whisper.tokenizer.LANGUAGES


@KINDS
def test_texts_are_the_ids_of_the_reference_and_come_back(kind, published):
    part, reference = published(kind), reference_of(kind)
    for text in TEXTS:
        ids = part.encode(text)
        assert ids == reference.encoding.encode(text, disallowed_special=()) and part.decode(ids) == text
        assert part.decode([part.sot, *ids[:1], part.timestamp_begin + 3, part.eot]) == reference.decode(ids[:1])


@KINDS
def test_letters_that_are_cut_in_two_are_shown_as_in_the_reference(kind, published):
    part, reference = published(kind), reference_of(kind)
    ids = part.encode(" 東京 🙂 ♪")
    assert [part.decode(ids[:n]) for n in range(len(ids))] == [reference.decode(ids[:n]) for n in range(len(ids))]


@KINDS
def test_suppressed_and_blank_ids_are_those_of_the_reference(kind, published):
    part, reference = published(kind), reference_of(kind)
    named = (reference.transcribe, reference.translate, reference.sot, reference.sot_prev, reference.sot_lm, reference.no_speech)
    assert part.suppressed == tuple(sorted({*reference.non_speech_tokens, *named}))
    assert part.blank == (*reference.encode(" "), reference.eot)


def test_a_transcript_stands_between_its_symbols_and_what_was_said_before_is_not_learnt(published):
    part = published("99 languages")
    ids, start = part.item({"text": "Hello, world. ", "previous": "So: "})
    before = [part.sot_prev, *part.encode(" So:")]
    assert ids.tolist() == [*before, 50258, 50259, 50359, 50363, 2425, 11, 1002, 13, 50257]
    batch = part([{"text": "Hello, world. ", "previous": "So: "}])
    assert start == len(before) + 1 and batch.targets[SUPERVISED][0].tolist() == [False] * start + [True] * (len(ids) - start)


def test_segments_stand_between_timestamps(published):
    part = TranscriptProcessor(context_length=448, tokenizer="given", timestamps=True, **SETTINGS["english"])
    part.use(published("english").tokenizer)
    ids, _ = part.item({"segments": [(0.0, 1.5, "Hello, world."), (1.52, None, " Hello, world.")]})
    words = [18435, 11, 995, 13]
    assert ids.tolist() == [50257, 50363, *words, 50363 + 75, 50363 + 76, *words, 50256]
    assert part.item("Hello, world.")[0].tolist() == [50257, 50362, *words, 50256]


def test_where_nothing_is_said_that_is_learnt(small):
    assert small.item(" ")[0].tolist() == [small.sot, small.no_speech, small.eot]


def test_of_what_was_said_before_the_last_half_of_a_context_is_kept(small):
    ids, start = small.item({"text": "a", "previous": "abc" * 20})
    assert start == 1 + 14 + 1 and small.decode(ids[1:15].tolist()) == ("abc" * 20)[-14:]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("abc" * 10, "34 tokens; context_length allows 30"),
        ({"segments": [(0.0, 0.2, "a")]}, "a time of 0.2 s; .* from 0 to 0.08 s"),
        ({"previous": "a"}, "a mapping with 'text' or 'segments'"),
        (3, "got int '3'"),
    ],
)
def test_transcripts_that_cannot_be_are_refused(raw, words):
    part = TranscriptProcessor(**SMALL, timestamps=True)
    part.fit(["abc de"])
    with pytest.raises(ItemError, match=words):
        part.item(raw)


def test_a_batch_is_padded_with_the_end_and_says_what_is_real_and_learnt(small):
    batch = small(["abc", "a"])
    assert batch.inputs["text"].shape == (2, 7) and (batch.inputs["text"][1, 5:] == small.eot).all()
    assert batch.masks["text"].tolist() == [[True] * 7, [True] * 5 + [False] * 2]
    assert batch.targets[SUPERVISED].tolist() == [[False] + [True] * 6, [False] + [True] * 4 + [False] * 2]
    again = small(batch.inputs["text"])
    assert torch.equal(again.masks["text"], batch.masks["text"]) and torch.equal(again.targets[SUPERVISED], batch.targets[SUPERVISED])


def test_a_processor_puts_transcripts_beside_the_other_inputs(small):
    processor = Processor({"transcript": small})
    samples = [Sample("1", {"audio": None, "text": "abc", "previous": "de"}), Sample("2", {"audio": None, "text": "a"})]
    batch = processor.collate(samples, [processor.items(sample) for sample in samples])
    assert isinstance(batch, Batch) and set(batch.inputs) == {"text"} and batch.inputs["text"][0, 0] == small.sot_prev
    assert batch.targets[SUPERVISED].sum(1).tolist() == [6, 4]


def test_letters_have_a_token_each_and_unknown_ones_none(small):
    assert small.decode(small.encode(" ab, ?c")) == " ab, c" and len(small.encode("abc")) == 3
    assert set(small.suppressed) == {small.transcribe, small.translate, small.sot, small.sot_prev, small.sot_lm, small.no_speech}


def test_a_trained_vocabulary_knows_every_byte_and_stays_below_the_special_tokens():
    part = TranscriptProcessor(vocab_size=320, context_length=30, num_languages=0, num_timestamps=7)
    part.fit(["one two", "two three"] * 3)
    ids = part.encode(" two 東京")
    assert part.decode(ids) == " two 東京" and max(ids) < part.eot == 305 and len(part.encode(" two")) == 1


def test_the_tokenizer_is_saved_and_loaded(small, tmp_path):
    Processor({"transcript": small}).save(tmp_path)
    again = Processor.load(tmp_path)["transcript"]
    assert again.settings == small.settings and again.encode("abc de") == small.encode("abc de")


def test_special_tokens_of_a_given_tokenizer_must_stand_where_ours_do(published):
    part = published("99 languages")
    again = TranscriptProcessor(context_length=448, tokenizer="given", **SETTINGS["99 languages"])
    again.use(whole_tokenizer(part))
    assert again.encode("<|endoftext|>") == part.encode("<|endoftext|>") != [part.eot]  # spelt
    for kind in ("english", "100 languages"):
        with pytest.raises(WeightsError, match="use the tokenizer the model was trained with"):
            TranscriptProcessor(context_length=448, tokenizer="given", **SETTINGS[kind]).use(whole_tokenizer(part))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer": "trainde"}, "did you mean 'trained'"),
        ({"vocab_size": 20}, "20 is too small; 15 are special tokens"),
        ({"num_languages": 101}, "allowed are 0 to 100"),
        ({"multilingual": True, "num_languages": 0}, "multilingual: 1 or more"),
        ({"language": "de"}, "only transcribes English"),
        ({"task": "translte"}, "did you mean 'translate'"),
        ({"multilingual": True, "language": "german"}, "there is no 'german' among the 2 .*known: en, zh"),
        ({"generation": {"suppress": [1]}}, "generation: there is no key 'suppress'"),
        ({"generation": {"suppress_tokens": [-3]}}, "generation.suppress_tokens: .*allowed is a list of token ids"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        TranscriptProcessor(**{**SMALL, **change})


@pytest.mark.parametrize("said", [{"language": "de"}, {"task": "translate"}])
def test_a_row_in_a_language_that_the_model_does_not_know_is_a_fault_of_that_row(said):
    part = TranscriptProcessor(**SMALL)
    part.fit(["one two"])
    with pytest.raises(ItemError, match="a transcript's language: .* only transcribes English: .*: 'one two'") as fault:
        part.item({"text": "one two", **said})
    assert fault.value.reason == "language"


def test_without_a_tokenizer_ready_ids_are_taken_and_texts_are_not():
    part = TranscriptProcessor(**{**SMALL, "tokenizer": "given"})
    assert not part.is_fitted and part.suppressed and part(torch.tensor([[part.sot, 1, part.eot]])).masks["text"].all()
    with pytest.raises(DataError, match="the weights came without one"):
        part(["a"])
    with pytest.raises(ConfigError, match="given, but there is no tokenizer and it cannot be trained"):
        part.fit(["a"])


def test_special_ids_are_the_last_of_the_vocabulary():
    ids = SpecialIds.of(40, 2, 5)
    assert sorted(ids.names().values()) == list(range(ids.base, 40)) and ids.timestamp_begin == 35


def test_a_damaged_file_of_ranks_is_refused(tmp_path):
    path = tmp_path / "x.tiktoken"
    for text in ("YQ== 0\nnot base64 1", "YQ== x", "YQ== 0\nYmNk 1"):
        path.write_text(text)
        with pytest.raises(WeightsError, match="download it again"):
            tiktoken_tokenizer(path)

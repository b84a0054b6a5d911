"""Decoding settings beside a Whisper's weights: the tokens are those that transformers' ``generate`` gives."""

import json

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

import zoo
from zoo.errors import ConfigError
from zoo.language.transcription.decoding import Window
from zoo.language.transcription.settings import Settings
from zoo.language.transcription.transcribe import recogniser_of

GREEDY = {"temperatures": 0.0, "no_speech_threshold": None, "log_probability_threshold": None, "compression_ratio_threshold": None}
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' of its own settings


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A directory of transformers with a small multilingual Whisper, whose random weights write long texts."""
    torch.manual_seed(0)
    words = {"tokenizer": "trained", "multilingual": True, "num_languages": 3, "num_timestamps": 1501, "vocab_size": 2000}
    head = {"vocab_size": 2000, "context_length": 40}
    encoders = {"audio": {"context_length": 50}}  # one second
    system = zoo.create_model("whisper_nano", processor={"transcript": words | {"context_length": 40}}, head=head, encoders=encoders)
    system.processor["transcript"].fit(["some words to learn letters from", "the end of it"])
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            parameter.normal_(std=0.3 if parameter.ndim > 1 else 0.1)
            if "embedding" in name:  # rows of equal length, and none wins everywhere
                parameter.copy_(4 * torch.nn.functional.normalize(parameter, dim=1))
    return zoo.export(system, tmp_path_factory.mktemp("exported") / "whisper")


@pytest.fixture
def directory(exported, tmp_path):
    """Copy the directory, with other settings of generation."""

    def make(**settings):
        for file in exported.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        path = tmp_path / "generation_config.json"
        told = {**json.loads(path.read_text()), **settings}
        path.write_text(json.dumps({key: value for key, value in told.items() if value != "absent"}))
        return tmp_path

    return make


@pytest.fixture(scope="module")
def sound():
    return (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)


def ours(directory, sound, **settings):
    """Return the tokens of a window, from the same mels as transformers'."""
    system = zoo.load(directory)
    mels = system.processor["audio"]([sound])[0][0]
    recogniser = recogniser_of(system, Settings(timestamps=False, **GREEDY, **settings))
    language = recogniser.settings.language or recogniser.identify(mels)
    (decoded,) = recogniser.decode([Window(mels, 0, language)])
    return decoded.token_ids


def theirs(directory, sound, **settings):
    """Return the tokens of transformers' generate after the prompt, from our mels, and the prompt."""
    model = WhisperForConditionalGeneration.from_pretrained(directory).eval()
    mels = zoo.load(directory).processor["audio"]([sound])[0]
    found = model.generate(mels, return_dict_in_generate=True, output_scores=True, **settings)
    count, sequence = len(found.scores), found.sequences[0].tolist()
    prompt, text = sequence[:-count], sequence[-count:]
    end = model.generation_config.eos_token_id
    return [token for token in text if token != end], prompt


CASES = {
    "as exported": {},
    "German": {"language": "<|de|>"},
    "German by name, translated": {"language": "german", "task": "translate"},
    "forced ids": {"forced_decoder_ids": "set below"},
    "an empty list": {"suppress_tokens": []},
    "no lists": {"suppress_tokens": None, "begin_suppress_tokens": None},
    "absent lists": {"suppress_tokens": "absent", "begin_suppress_tokens": "absent"},
    "a list": {"suppress_tokens": list(range(200)), "begin_suppress_tokens": [220, 230, 240]},
    "a short length": {"max_length": 12},
    "few new tokens": {"max_new_tokens": 5},
}


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_transformers(case, directory, sound):
    part = zoo.load(directory()).processor["transcript"]
    settings = dict(CASES[case])
    if "forced_decoder_ids" in settings:
        settings["forced_decoder_ids"] = [[1, part.languages["zh"]], [2, part.translate]]
    path = directory(**settings)
    expected, prompt = theirs(path, sound)
    found = ours(path, sound)
    most = min(len(found), len(expected))
    assert most >= 5 and found[:most] == expected[:most]
    assert len(found) == len(expected) or len(found) == 20  # half the context, where no length is told
    settings = recogniser_of(zoo.load(path), Settings(timestamps=False)).settings
    if settings.language is not None:
        assert part.start(settings.language, settings.task) == prompt[:-1]


def test_keywords_go_before_the_file(directory, sound):
    path = directory(language="<|de|>", task="translate", suppress_tokens=list(range(50)))
    system = zoo.load(path)

    def settings(**given):
        return recogniser_of(system, Settings(**given)).settings

    assert (settings().language, settings().task) == ("de", "translate")
    assert (settings(language="en").language, settings(language="auto").language, settings(task="transcribe").task) == (
        "en",
        None,
        "transcribe",
    )
    part = system.processor["transcript"]
    assert settings(suppress_tokens=[-1]).suppress_tokens == part.unspoken and settings(suppress_tokens=[]).suppress_tokens == ()
    expected, _ = theirs(path, sound, language="en", task="transcribe", suppress_tokens=[3])
    assert ours(path, sound, language="English", task="transcribe", suppress_tokens=[3])[:15] == expected[:15]
    with pytest.raises(ConfigError, match="suppress_tokens: 2000; the ids of this vocabulary are 0 to 1999"):
        settings(suppress_tokens=[2000])


def test_settings_are_kept_when_the_system_is_saved(directory, tmp_path):
    system = zoo.load(directory(language="de", suppress_tokens=[], max_length=12, return_timestamps=True, max_initial_timestamp_index=3))
    again = zoo.load(zoo.save(system, tmp_path / "saved")).processor["transcript"]
    assert again.generation == system.processor["transcript"].generation
    assert again.generation.settings == {
        **{"language": "de", "timestamps": True, "suppress_tokens": [], "begin_suppress_tokens": list(again.blank)},
        **{"max_length": 12, "max_initial_timestamp_index": 3},
    }
    recogniser = recogniser_of(system, Settings())
    assert recogniser.settings.timestamps and recogniser.rules.latest_start == 3


def test_languages_of_a_fine_tuning_are_used(directory):
    part = zoo.load(directory()).processor["transcript"]
    system = zoo.load(directory(lang_to_id={"<|en|>": part.languages["en"], "<|xx|>": part.languages["zh"]}, language="xx"))
    assert system.processor["transcript"].languages == {"en": part.languages["en"], "xx": part.languages["zh"]}
    assert recogniser_of(system, Settings()).settings.language == "xx"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder_start_token_id": 5}, "decoder_start_token_id: got 5; in a vocabulary with eos_token_id"),
        ({"task_to_id": {"transcribe": 7}}, "task_to_id.transcribe: got 7"),
        ({"max_length": "long"}, "max_length: got 'long'"),
        ({"suppress_tokens": [-7]}, "generation.suppress_tokens"),
    ],
)
def test_settings_that_contradict_the_vocabulary_are_refused_by_name(settings, message, directory):
    with pytest.raises(zoo.ZooError, match=message):
        zoo.load(directory(**settings))


def test_settings_that_are_not_used_are_named(directory, caplog):
    zoo.load(directory(num_beams=4, forced_decoder_ids=[[1, 5]], suppress_tokens=[3, 2500]))
    for words in (
        "num_beams 4; pass it to transcribe",
        "forced_decoder_ids [[1, 5]]",
        "suppress_tokens [2500], which the vocabulary does not",
    ):
        assert words in caplog.text


def enlarged(directory, rows, words=()):
    """Add rows to the word table, and words to the tokenizer, as a fine-tuning does."""
    model = WhisperForConditionalGeneration.from_pretrained(directory)
    model.resize_token_embeddings(model.config.vocab_size + rows)
    model.save_pretrained(directory)
    path, flags = directory / "tokenizer.json", dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content, first = json.loads(path.read_text(encoding="utf-8")), model.config.vocab_size - rows
    content["added_tokens"] += [{"id": first + n, "content": word, **flags} for n, word in enumerate(words)]
    content["model"]["vocab"] |= {word: first + n for n, word in enumerate(words)}
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("told", [{}, {"no_timestamps_token_id": "absent", "eos_token_id": "absent"}])
def test_added_tokens_keep_their_ids_and_are_written_without_timestamps(told, directory, sound):
    path = directory(**told)
    before = zoo.load(path).processor["transcript"]
    enlarged(path, 5, ["Zoologix", "Whispera"])
    system = zoo.load(path)
    part = system.processor["transcript"]
    assert part.ids == before.ids and part.encode("Zoologix")[-1] == 2000 and part.decode([2000, 2001]) == "ZoologixWhispera"
    allowed = [each for each in range(2005) if each not in (2000, 2001, 30)]
    found = ours(path, sound, suppress_tokens=[each for each in allowed if each < 2000])
    assert found and set(found) <= {2000, 2001, 30}
    with_times = recogniser_of(system, Settings(timestamps=True)).rules.never.tolist()
    assert set(range(2000, 2005)) <= set(with_times)

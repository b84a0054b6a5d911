"""Whisper trained, saved and adapted by a user, from recordings with texts."""

import json
import wave

import numpy as np
import pytest
import torch

import zoo
from zoo.assembly.build import build_system
from zoo.assembly.compose import compose
from zoo.errors import ConfigError
from zoo.runs.train import train
from zoo.types import SUPERVISED

TONES = {"a": 400, "b": 700, "c": 1100, "d": 1700}  # Hz
RATE = 16000


def said(text):
    """Make a recording in which each letter is a tone of 0.12 s."""
    times = np.arange(round(0.12 * RATE)) / RATE
    return np.concatenate([0.3 * np.sin(2 * np.pi * TONES[letter] * times) for letter in text]).astype(np.float32)


@pytest.fixture
def recordings(tmp_path):
    """A table of recordings of two letters or three, each a tone."""
    rng, rows = np.random.default_rng(0), []
    texts = {"".join(rng.choice(list(TONES), rng.integers(2, 4))) for _ in range(60)}
    for text in sorted(texts):
        with wave.open(str(tmp_path / f"{text}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((said(text) * 32767).astype(np.int16).tobytes())
        rows.append({"path": f"{text}.wav", "text": text, "split": "train"})
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run_words(recordings, tmp_path, *more):
    """Overrides of a small run."""
    words = ["system=whisper_nano", "data=speech", f"data.source.path={recordings}", f"run_dir={tmp_path / 'run'}", "data.num_workers=0"]
    return [*words, "training.max_steps=3", "training.batch_size=4", "training.evaluate_every=0", *more]


def test_a_training_step_is_checked_without_weights(recordings, tmp_path):
    report = zoo.check(compose("train", run_words(recordings, tmp_path)))
    assert ("data.source", "system.processor.transcript") in [(edge.source, edge.target) for edge in report.edges]
    with pytest.raises(ConfigError, match="gives image, text; system.encoders.audio needs audio"):
        zoo.check(compose("train", ["system=whisper_nano"]))


def test_a_processor_may_not_know_more_tokens_than_the_decoder():
    with pytest.raises(ConfigError, match="transcript.vocab_size: the processor has 600, system.head.vocab_size is 512"):
        zoo.create_system("whisper_nano", ["+system.processor.transcript.vocab_size=600"])
    with pytest.raises(ConfigError, match="no part at system.head reads its tokens; .* whisper_nano_decoder"):
        zoo.create_system("clap_whisper_nano", ["+system.processor.transcript={}"])


def test_a_head_brings_its_processor_along():
    config = {"name": "x", "encoders": {"audio": "whisper_nano_encoder"}, "head": {"name": "whisper", "vocab_size": 2000, "dim": 48}}
    assert build_system(zoo.assembly.create.expand_names(config)).processor["transcript"].vocab_size == 2000


@pytest.mark.heavy
def test_a_run_learns_from_recordings_and_their_texts_and_is_loaded(recordings, tmp_path):
    result = train(compose("train", run_words(recordings, tmp_path)))
    system = zoo.load(result.run_dir)
    part = system.processor["transcript"]
    assert part.is_fitted and part.decode(part.encode("abcd")) == "abcd"
    batch = system.processor(audio=[said("ab")], transcript=["ab"])
    assert system(batch).loss.isfinite() and batch.masks["audio"].all() and batch.targets[SUPERVISED].sum() == 5


def test_a_clip_in_a_batch_has_the_loss_of_the_clip_alone():
    system = zoo.create_model("whisper_nano")
    system.processor["transcript"].fit(["abcd"])
    texts = ["ab", "abcd"]
    with torch.no_grad():
        together = system(system.processor(audio=[said(text) for text in texts], transcript=texts)).outputs["logits"]
        alone = [system(system.processor(audio=[said(text)], transcript=[text])).outputs["logits"] for text in texts]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5 * together.abs().max().item())


def test_a_saved_system_is_the_same_system(tmp_path):
    system = zoo.create_model("whisper_nano")
    system.processor["transcript"].fit(["abcd"])
    zoo.save(system, tmp_path)
    again = zoo.load(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in system.state_dict().items())
    assert again.processor["transcript"].encode("abcd") == system.processor["transcript"].encode("abcd")


def test_adapters_go_into_both_halves_and_leave_the_first_outputs(recordings, tmp_path):
    system = zoo.create_model("whisper_nano")
    system.processor["transcript"].fit(["abcd"])
    batch = system.processor(audio=[said("ab")], transcript=["ab"])
    expected = system(batch).loss
    words = {"kind": "lora", "rank": 2}
    zoo.assembly.build.add_adapters(system, {"encoders.audio": words, "head.decoder": words}, "training.adapters")
    torch.testing.assert_close(system(batch).loss, expected)
    system(batch).loss.backward()
    learnt = [name for name, parameter in system.named_parameters() if parameter.grad is not None]
    assert learnt and all("lora_" in name for name in learnt) and any("cross.key_value" in name for name in learnt)


@pytest.mark.heavy
def test_the_nano_learns_to_write_down_tones(recordings, tmp_path):
    more = ["training.max_steps=120", "training.batch_size=16", "training.learning_rate=3e-3", "training.threads=1"]
    system = zoo.load(train(compose("train", run_words(recordings, tmp_path, *more))).run_dir)
    texts = ["abc", "dd", "bca", "cab", "db"]
    heard = system.transcribe([said(text) for text in texts], timestamps=False, temperatures=(0.0,), vad_filter="none")  # no speech
    assert sum(each.text.strip() == text for each, text in zip(heard, texts, strict=True)) >= 4

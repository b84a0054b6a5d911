"""Old names of config keys and values are accepted for one release, wherever a config comes from."""

import logging

import pytest
import yaml

import zoo
from zoo.assembly.compose import apply_overrides, compose
from zoo.assembly.hydra_jobs import run_with_hydra
from zoo.evaluation.tts import Tts
from zoo.registry.config_keys import warn_renamed
from zoo.registry.construct import construct
from zoo.runs.run_directory import read_run_config
from zoo.training.settings import TrainingSettings

REQUIRED = {"max_steps": 1, "batch_size": 2, "learning_rate": 1.0}


@pytest.fixture(autouse=True)
def warn_again():
    warn_renamed.cache_clear()


@pytest.mark.parametrize(
    ("old", "group", "key", "value"),
    [
        ("training.frozen_passes=2", "training", "cache_features", 2),
        ("+training.frozen_passes=2", "training", "cache_features", 2),
        ("training.frozen_passes={image: 1, text: 3}", "training", "cache_features", {"image": 1, "text": 3}),
        ("training.accumulation=cached", "training", "accumulation", "grad_cache"),
        ("evaluation.judge=runs/whisper", "evaluation", "asr_model", "runs/whisper"),
    ],
)
def test_an_old_name_in_an_override_sets_the_new_key_and_warns_once(old, group, key, value, caplog):
    extra = ["evaluation=tts"] if group == "evaluation" else []
    with caplog.at_level(logging.WARNING, "zoo"):
        config = compose("train", [*extra, old])
    assert config[group][key] == value and not {"frozen_passes", "judge"} & set(config[group])
    assert [f"is now called {group}.{key}" in record.getMessage() for record in caplog.records] == [True]


def test_a_saved_config_with_old_names_takes_overrides_by_either_name():
    saved = {**compose("train"), "training": {**REQUIRED, "frozen_passes": 1, "accumulation": "cached"}}
    for word in ("frozen_passes", "cache_features"):
        training = apply_overrides(saved, [f"training.{word}=3"])["training"]
        assert training == {**REQUIRED, "cache_features": 3, "accumulation": "grad_cache"}


def test_the_config_of_an_old_run_is_read_with_new_names(tmp_path):
    saved = {"training": {**REQUIRED, "frozen_passes": 1}, "evaluation": {"name": "tts", "judge": "runs/whisper"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    found = read_run_config(tmp_path)
    assert found["training"] == {**REQUIRED, "cache_features": 1}
    assert found["evaluation"] == {"name": "tts", "asr_model": "runs/whisper"}


def test_a_constructor_accepts_old_names():
    settings = construct(TrainingSettings, {**REQUIRED, "frozen_passes": 1, "cache_features": 0, "accumulation": "cached"}, "training")
    assert settings.cache_features == 1 and settings.accumulation == "grad_cache"
    assert construct(Tts, {"judge": "runs/whisper"}, "evaluation").asr_model == "runs/whisper"


def test_old_and_new_name_with_different_values_are_refused():
    with pytest.raises(zoo.ConfigError, match=r"training.frozen_passes: is the old name of training.cache_features, which is 2"):
        construct(TrainingSettings, {**REQUIRED, "frozen_passes": 1, "cache_features": 2}, "training")


def test_a_sweep_accepts_old_names(tmp_path):
    seen = []
    words = ["-m", "training.frozen_passes=1,2", f"run_dir={tmp_path}/sweep"]
    assert run_with_hydra(words, lambda config: seen.append(config["training"]["cache_features"]) or 0) == 0
    assert seen == [1, 2]

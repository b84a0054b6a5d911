"""Composition of configs: valid ones compose, wrong ones are refused with key, both sides and choices, and none can name code."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

import zoo
from zoo.assembly.compose import apply_overrides, compose
from zoo.assembly.config_source import options
from zoo.assembly.create import plain_system
from zoo.assembly.hydra_jobs import run_with_hydra
from zoo.assembly.quick_check import quick_check
from zoo.registry import find_row, rows
from zoo.storage.places import packaged_directory
from zoo.training.settings import TrainingSettings

REFUSED = {
    "system.encoders.image.drop_pat=0.1": "system.encoders.image.drop_pat: .*did you mean 'drop_path'",
    "training.learning_rat=1": "training.learning_rat: .*did you mean 'learning_rate'",
    "sytem.head.embed_dim=3": "did you mean 'system'",
    "system=clip_vit_nan": "system: there is no system 'clip_vit_nan'; did you mean 'clip_vit_nano'",
    "encoder@system.encoders.image=vit_nan": "did you mean 'vit_nano'",
    "encoder@system.encoders.imag=vit_nano": "did you mean 'encoder@system.encoders.image'",
    "data=digit": "data: there is no data 'digit'; did you mean 'digits'",
    "experiment=digit_pair": "did you mean 'digit_pairs'",
    "nonsense": "write KEY=VALUE",
}
MISFITS = {
    "encoder@system.encoders.image=text_nano": "system.encoders.image: encoder 'text' takes text.*stands under 'image'",
    "system.processor.text.vocab_size=600": "processor.text.vocab_size: the processor has 600.*has 512",
    "system.encoders.text.vocab_size=300": "the processor has 512.*has 300",
    "system.processor.image.image_size=64": "processor.image.image_size: the processor has 64.*has 32",
    "system.encoders.image.num_heads=5": "system.encoders.image.num_heads: 5 does not divide dim 64",
    "system.encoders.image.patch_size=5": "system.encoders.image.patch_size: 5 does not divide image_size 32",
    "system.encoders.image.pool=none": "gives no pooled vector.*head 'clip' reads",
    "system.encoders.text.eot_token_id=1": "pools at 1, but the tokenizer ends texts with 2",
    "system.head.projections=none,system.encoders.image.dim=96": "encoder's dim 96 to equal embed_dim 64",
    "~system.encoders.text": "system.encoders: has 1 .*head 'clip' takes 2",
    "system.encoders.image.depth=two": "system.encoders.image.depth: got 'two'",
    "data.source.name=digit": "data.source.name: there is no source 'digit'; did you mean 'digits'",
    "training.precision=fp8": "training.precision: there is no 'fp8'",
    "training.batch_size=0": "training.batch_size: 0; allowed is 1 or more",
}


@pytest.mark.parametrize("override", REFUSED)
def test_unknown_keys_and_options_are_refused_with_near_matches(override):
    with pytest.raises(zoo.ConfigError, match=REFUSED[override]):
        compose("train", [override])


@pytest.mark.parametrize("overrides", MISFITS)
def test_parts_that_do_not_fit_are_refused_before_weights_are_made(overrides):
    with pytest.raises(zoo.ConfigError, match=MISFITS[overrides]):
        zoo.check(compose("train", overrides.split(",")))


def test_a_plain_name_needs_no_hydra():
    code = (
        "import sys, zoo; zoo.create_system('clip_vit_nano'); zoo.create_model('bert_pretraining_nano'); assert 'hydra' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_training_group_has_every_setting_with_its_default():
    training, fields = compose("train")["training"], {field.name: field for field in dataclasses.fields(TrainingSettings)}
    assert list(training) == list(fields)
    differing = {
        name for name, value in training.items() if value != fields[name].default and fields[name].default is not dataclasses.MISSING
    }
    assert differing - {"betas", "freeze", "trackers", "adapters", "learning_rates"} == {"warmup_steps"}


def test_threads_compose_beside_one_another():
    names = list(rows("system"))[:4] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: compose("train", [f"system={name}"])["system"]["name"], names))
    assert found == names


def test_a_job_of_a_sweep_may_compose(tmp_path):
    seen = []

    def job(config):
        seen.append((config["seed"], compose("train", ["seed=7"])["seed"]))
        return 0

    assert run_with_hydra(["-m", "seed=1,2", f"run_dir={tmp_path}/sweep"], job) == 0
    assert seen == [(1, 7), (2, 7)]


def test_jobs_of_a_sweep_and_what_follows_keep_warnings(tmp_path):
    """Hydra's job_logging=disabled raises the level of the root logger above warnings."""
    log, seen = logging.getLogger("zoo"), []
    run_with_hydra(["-m", "seed=1,2", f"run_dir={tmp_path}/sweep"], lambda config: seen.append(log.isEnabledFor(logging.WARNING)) or 0)
    assert seen == [True, True] and log.isEnabledFor(logging.WARNING)


def data_of(name: str, path) -> list[str]:
    """Data that a system can be trained on; the pictures and captions of the default serve most."""
    row = find_row(name, "system")
    if row.family == "tacotron":
        return ["data=spoken_numbers"]
    if row.family == "bert":
        pairs = "none" if name.startswith("roberta") else "swapped" if name.startswith("albert") else "next"
        order = ["data.masking={permutation: true, unit: spans, probability: 0.1667}"] if name.startswith("xlnet") else []
        return ["data=documents", f"data.source.path={path}", f"data.source.pairs={pairs}", *order]
    if row.family == "seq2seq" and row.modalities == ("text",):
        return ["data=parallel", f"data.source.path={path}"]
    if name.startswith("bind_"):
        return ["data=aligned", f"data.source.path={path}"]
    return ["data=speech", f"data.source.path={path}"] if "audio" in row.modalities else []


def shape_of(value):
    """Return a config without its numbers, hashable; systems of one shape are sizes of one architecture."""
    if isinstance(value, Mapping):
        return tuple((key, shape_of(value[key])) for key in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(sorted({str(shape_of(each)) for each in value}))
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else value


@cache
def first_of_each_shape() -> set[str]:
    """Names of systems, one per architecture: the step of a larger size takes seconds and can fail in no other way."""
    return set({shape_of({**plain_system(row), "name": ""}): name for name, row in reversed(rows("system").items())}.values())


def shallow(config):
    """Return a system with at most four blocks per part, unless lists of the part number its blocks; other tests build them all."""
    if not isinstance(config, Mapping):
        return config
    deep = isinstance(config.get("depth"), int) and not any(isinstance(value, list | tuple) for value in config.values())
    return {key: min(value, 4) if key == "depth" and deep else shallow(value) for key, value in config.items()}


@pytest.mark.parametrize("name", rows("system"))
def test_every_system_composes_as_its_plain_config_and_fits(name, tmp_path):
    config = compose("train", [f"system={name}", *data_of(name, tmp_path)])
    assert json.dumps(plain_system(find_row(name, "system"))) == json.dumps(config["system"])  # also in the order of keys
    quick_check(config)
    if name in first_of_each_shape():
        assert zoo.check({**config, "system": shallow(config["system"])}).edges[-1].target == "loss"


def test_a_system_alone_composes_as_within_a_run():
    for name in ("clip_vit_nano", "qwen2_vl_2b", "tacotron_nano"):
        assert json.dumps(compose("system", [f"system={name}"])["system"]) == json.dumps(plain_system(find_row(name, "system")))


@pytest.mark.parametrize("group", ["experiment", "training", "evaluation"])
def test_every_option_of_a_plain_group_composes(group, tmp_path):
    needed = {  # of experiments
        **dict.fromkeys(("fashion_mnist", "clip_dinov2_minilm", "clap_speech", "bert_nano"), ["data"]),
        **dict.fromkeys(("kosmos_manual", "tacotron_asterisk", "translate_en_de"), ["data"]),
        "distil_text": ["data", "teacher"],
        "spoken_emoji": ["data", "weights"],
    }
    words = {"data": f"data.source.path={tmp_path}", "teacher": f"teacher={tmp_path}", "weights": f"weights.encoders.audio={tmp_path}"}
    for path in (packaged_directory("conf") / group).glob("*.yaml"):
        zoo.check(compose("train", [f"{group}={path.stem}", *(words[key] for key in needed.get(path.stem, []))]))


SYSTEMS = {  # that a data option is for, where it is not the default one
    "aligned": "system=bind_vit_nano",
    **dict.fromkeys(("digit_questions", "digit_tables", "emoji_conversations", "geography_questions", "instruct"), "system=llava_nano"),
    "documents": "system=roberta_pretraining_nano",
    **dict.fromkeys(("digit_documents", "interleaved", "pages", "raven", "rendered_text"), "system=kosmos_nano"),
    "mixture": "system=kosmos_nano data.source.sources={scenes:{name:digit_questions},documents:{name:digit_documents}}",
    "parallel": "system=transformer_nano",
    "preferences": "system=llava_nano objective=dpo",
    "speech": "system=clap_whisper_nano",
    "spoken_numbers": "system=tacotron2_nano",
}

WITHOUT_PATH = (
    *("digit_documents", "digit_pairs", "digit_questions", "digit_tables", "digits", "mixture"),
    *("raven", "rendered_text", "spoken_numbers"),
)


@pytest.mark.parametrize("name", options("data"))
def test_every_data_option_composes_and_fits(name, tmp_path):
    extra = SYSTEMS.get(name, "").split() + ([] if name in WITHOUT_PATH else [f"data.source.path={tmp_path}"])
    if name == "lines":  # texts alone
        extra += ["experiment=distil_text", f"teacher={tmp_path}"]
    zoo.check(compose("train", [f"data={name}", *extra]))


def test_a_missing_path_says_which_key():
    with pytest.raises(zoo.ConfigError, match=r"data.source.path: has no value.*data.source.path=..."):
        compose("train", ["data=folder"])


def test_a_keyword_that_the_row_does_not_mention_can_be_set():
    config = compose("train", ["system.encoders.image.drop_path=0.1", "training.max_steps=7"])
    assert config["system"]["encoders"]["image"]["drop_path"] == 0.1


def test_only_heads_are_given_a_language_model_so_that_other_parts_have_a_keyword_of_that_name():
    config = compose("evaluate", ["checkpoint=c", "evaluation=asr", "evaluation.language=de"])
    assert config["evaluation"] == {"name": "asr", "language": "de"}
    config = compose("train", ["system=whisper_nano", "data=speech", "data.source.path=p", "system.processor.transcript.language=de"])
    assert config["system"]["processor"]["transcript"]["language"] == "de"
    with pytest.raises(zoo.ConfigError, match=r"system\.head\.inputs: no such key"):
        compose("train", ["system.head.inputs=x"])


def test_another_tower_is_one_override():
    assert zoo.create_system("clip_vit_nano", ["encoder@system.encoders.text=text_bidirectional_nano"]).encoders["text"].causal is False


@pytest.mark.parametrize("override", ["+system.head._target_=os.system", "+data.source._target_=os.system", "+_partial_=true"])
def test_a_config_that_names_code_is_refused(override):
    with pytest.raises(zoo.ConfigError, match="names code"):
        compose("train", [override])


def test_a_mapping_that_names_code_is_refused():
    config = {"encoders": {"image": "vit_nano", "text": "text_nano"}, "head": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(zoo.ConfigError, match="system.head._target_: 'os.system' names code"):
        zoo.create_system(config)


def test_a_mapping_may_name_rows():
    system = zoo.create_system({"encoders": {"image": "vit_nano", "text": "text_nano"}, "head": "clip_nano"})
    assert set(system.encoders) == {"image", "text"}


def test_saved_configs_take_overrides_of_their_own_keys_only():
    config = compose("train")
    assert apply_overrides(config, ["training.max_steps=9"])["training"]["max_steps"] == 9
    with pytest.raises(zoo.ConfigError, match="did you mean 'max_steps'"):
        apply_overrides(config, ["training.max_step=9"])


@pytest.fixture
def saved_backbone(tmp_path, monkeypatch):
    """A working directory with a backbone that transformers saved in ``models/vit v1.0``."""
    (tmp_path / "models" / "vit v1.0").mkdir(parents=True)
    config = '{"model_type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}'
    (tmp_path / "models" / "vit v1.0" / "config.json").write_text(config)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models" / "vit v1.0"


def image_encoder(option):
    return compose("train", [f"encoder@system.encoders.image={option}"])["system"]["encoders"]["image"]


@pytest.mark.parametrize("name", ["resnet18", "test_vit.r160_in1k", "vit_base_patch16_224.augreg_in1k"])
def test_models_of_timm_are_options_of_the_group(name):
    assert image_encoder(f"timm/{name}") == {"name": "timm", "model": name}


def test_directories_of_transformers_are_options_of_the_group(saved_backbone):
    for option in ("models/vit v1.0", f"{saved_backbone}/", f"../{saved_backbone.parts[-3]}/models/vit v1.0"):
        assert image_encoder(f"transformers/{option}")["config"]["hidden_size"] == 32


@pytest.mark.parametrize("option", ["timm/test_vit", "'transformers/models/vit v1.0'"])
def test_a_backbone_passes_the_check_and_takes_its_own_keywords(option, saved_backbone):
    config = compose("train", [f"encoder@system.encoders.image={option}", "system.encoders.image.image_size=64"])
    assert "float32 [4, 3, 64, 64]" in [edge.carries for edge in zoo.check(config).edges]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "encoder@system.encoders.image=timm/resnet19",
            "system.encoders.image.model: timm has no model 'resnet19'; did you mean 'resnet18'",
        ),
        ("encoder@system.encoders.image=timm/", "encoder@system.encoders.image: timm/: names no model"),
        ("encoder@system.encoders.image=timm_nan", "did you mean 'timm_nano'"),
        ("encoder@system.encoders.image='transformers/models/vit v1.1'", "encoder@system.encoders.image: .*did you mean 'vit v1.0'"),
        ("encoder@system.encoders.text=timm/resnet18", "system.encoders.text: encoder 'timm' takes image, but stands under 'text'"),
    ],
)
def test_wrong_backbones_are_refused_with_their_key(override, message, saved_backbone):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.check(compose("train", [override]))


def test_a_sweep_may_name_backbones(saved_backbone, tmp_path):
    seen = []
    choices = "vit_nano,timm/test_vit,'transformers/models/vit v1.0'"
    words = ["-m", f"encoder@system.encoders.image={choices}", f"run_dir={tmp_path}/sweep"]
    assert run_with_hydra(words, lambda config: seen.append(config["system"]["encoders"]["image"]["name"]) or 0) == 0
    assert seen == ["vit", "timm", "transformers"]


def test_a_mapping_may_name_backbones():
    system = zoo.create_system({"encoders": {"image": "timm/test_vit", "text": "text_nano"}, "head": "clip_nano"})
    assert system.config["encoders"]["image"] == {"name": "timm", "model": "test_vit"}


def test_a_file_of_overrides_may_name_backbones(tmp_path, monkeypatch):
    conf = shutil.copytree(packaged_directory("conf"), tmp_path / "conf")
    text = "# @package _global_\ndefaults:\n  - override /encoder@system.encoders.image: timm/test_resnet\n"
    (conf / "experiment" / "other_tower.yaml").write_text(text)
    monkeypatch.setattr("zoo.assembly.config_source.packaged_directory", lambda name: tmp_path / name)
    assert compose("train", ["experiment=other_tower"])["system"]["encoders"]["image"] == {"name": "timm", "model": "test_resnet"}

"""Overrides and Hydra's own node: odd values are told, and no config runs code."""

import pytest

import zoo
from zoo.assembly.compose import apply_overrides, compose
from zoo.assembly.hydra_node import refuse_code_of_hydra
from zoo.commands.cli import main

ODD = [
    ("seed=${seed}", "config: seed: "),
    ("system.head.embed_dim=${x.y}", "system.head.embed_dim: "),
    ("training=[[[]]]", "training: got"),
    ("data=1e-400", "data: got '1e-400'"),
    ("data=null", "data: got"),
    ("evaluation=5", "evaluation: got '5'"),
    ("objective=true", "objective: got"),
    ("experiment=[1,2]", "experiment: got"),
    ("~system", "system: is missing"),
    ("~training", "training: is missing"),
    ("data.source=true", "data.source: got True"),
    ("training.adapters={a: 1}", "training.adapters.a: got 1"),
    ("system.encoders.image=${run_dir}", "system.encoders.image: got None"),
    ("system.encoders.image.depth=1000000000000", "depth: got 1000000000000 layers"),
    ("system.processor=3", "system.processor: got 3"),
    ("seed=abc", "seed: got 'abc'"),
    ("seed=" + "9" * 5000, "an override cannot be read"),
    ("seed=${oc.env:NO_SUCH_VARIABLE}", "seed: "),
    ("=3", "has no key"),
    ("hydra=3", "override"),
]


@pytest.mark.parametrize(("override", "told"), ODD, ids=[override[:30] for override, _ in ODD])
def test_an_odd_override_is_told_with_its_key(override, told):
    with pytest.raises(zoo.ConfigError) as error:
        compose("train", ["system=clip_vit_nano", "data=digits", override])
    assert told in str(error.value) and len(str(error.value)) < 900


@pytest.mark.parametrize(
    ("first", "unknown", "told"),
    [
        ("encoder@system.encoders.image={a: 1}", "hydra=[[[]]]", r"encoder@system\.encoders\.image"),
        ("system.head=${x.y}", "system.head.embed_dim=${oc.env:HOME}", r"x\.y"),
    ],
)
def test_an_override_before_an_unknown_key_is_told_as_alone(first, unknown, told):
    with pytest.raises(zoo.ConfigError, match=told):
        compose("train", ["system=clip_vit_nano", "data=digits", first, unknown])


def test_the_middle_of_a_long_message_is_cut():
    told = str(zoo.ConfigError(f"mean {[0.0] * 1000}; give three numbers"))
    assert len(told) < 4000 and told.startswith("mean [0.0, ") and told.endswith("; give three numbers")


@pytest.mark.parametrize("override", ["training.max_steps=[", "seed=${seed}", "data.source=3", "=3", "seed=" + "9" * 5000])
def test_an_odd_override_of_a_saved_run_is_told(override):
    config = compose("train", ["system=clip_vit_nano", "data=digits"])
    with pytest.raises(zoo.ConfigError):
        apply_overrides(config, [override])


CODE = [
    {"hydra_logging": {"handlers": {"x": {"()": "os.system", "command": "touch MARK"}}}},
    {"job_logging": {"handlers": {"x": {"class": "subprocess.Popen", "args": ["touch", "MARK"]}}}},
    {"job_logging": {"formatters": {"x": {"()": "os.system"}}}},
    {"job_logging": {"filters": {"x": {"()": "os.system"}}}},
    {"hydra_logging": {"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://os.environ"}}}},
    {"launcher": {"_target_": "os.system"}},
    {"sweeper": {"_target_": "hydra._internal.x", "y": [{"_target_": "os.system"}]}},
    {"callbacks": {"x": {"_target_": "os.system"}}},
    {"run": {"dir": "${oc.env:HOME}"}},
]


@pytest.mark.parametrize("node", CODE, ids=range(len(CODE)))
def test_code_in_hydras_node_is_told(node):
    with pytest.raises(zoo.ConfigError, match=r"^hydra\.\w+"):
        refuse_code_of_hydra(node)


def test_a_search_path_that_names_code_is_told_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "evil" / "hydra" / "hydra_logging"
    folder.mkdir(parents=True)
    (folder / "ev.yaml").write_text('version: 1\nhandlers:\n  x: {"()": os.system, command: touch MARK}\nroot: {handlers: [x]}\n')
    overrides = [f"hydra.searchpath=[file://{tmp_path}/evil]", "hydra/hydra_logging=ev", "seed=0"]
    assert main(["train", "-m", *overrides]) == 2
    assert "'os.system' names code" in capsys.readouterr().err and not (tmp_path / "MARK").exists()


FOREIGN = {
    "evil": "# @package _global_\nhydra:\n  job_logging:\n    handlers: {x: {'()': zoo.load, source: MARK}}\n    root: {handlers: [x]}\n",
    "odd": "# @package _global_\nhydra:\n  job_logging:\n    handlers: {x: {class: logging.StreamHandler, level: {a: 1}}}\n"
    "    root: {handlers: [x]}\n",
    "fine": "# @package _global_\ntraining: {max_steps: 3}\n",
}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("fine,evil", "'zoo.load' names code"),
        ("odd", "Level not an integer"),
        ("glob(nothing*)", "matches no option"),
        ("'", "override"),
        ("nope", "nope"),
    ],
)
def test_a_sweep_tells_in_one_line_what_any_of_its_jobs_would_do_wrong(tmp_path, monkeypatch, capsys, choice, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    for name, text in FOREIGN.items():
        (tmp_path / "mine" / "experiment" / f"{name}.yaml").write_text(text)
    words = ["train", "-m", "system=clip_vit_nano", "data=digits", f"hydra.searchpath=[file://{tmp_path}/mine]"]
    assert main([*words, f"experiment={choice}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert told in said[-1] and "Traceback" not in "".join(said) and len(said) == 1


def test_hydras_own_node_is_let_through(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--cfg", "job", "system=clip_vit_nano", "data=digits"]) == 0
    assert "clip_vit_nano" in capsys.readouterr().out

"""Hydra's flags, own folders of YAML, short names of other libraries, help and tab completion."""

import shutil
import subprocess
import sys

import pytest

import zoo
from zoo.assembly.compose import apply_overrides, compose
from zoo.assembly.hydra_flags import read_flags
from zoo.assembly.hydra_jobs import run_with_hydra
from zoo.assembly.hydra_node import refuse_code_of_hydra
from zoo.commands.cli import _parser, main
from zoo.commands.completion import SCRIPTS, completions

OWN = {
    "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /system: classifier_vit_nano\n"
    "  - override /evaluation: classification\ntraining: {max_steps: 3}\n",
    "experiment/minimal.yaml": "# @package _global_\ntraining: {max_steps: 4}\n",
    "experiment/typo.yaml": "# @package _global_\ntrainning: {max_steps: 4}\n",
    "experiment/variable.yaml": "# @package _global_\nwidth: 48\nsystem: {encoders: {image: {dim: '${width}'}}}\n",
    "training/quick.yaml": "max_steps: 5\nbatch_size: 8\nlearning_rate: 0.1\n",
    "training/half.yaml": "defaults: [default]\nmax_steps: 6\n",
    "training/lacking.yaml": "max_steps: 5\n",
    "encoder/my_vit.yaml": "name: vit\nimage_size: 32\npatch_size: 8\ndim: 48\ndepth: 1\nnum_heads: 2\n",
    "entry.yaml": "defaults: [train, _self_]\ntraining: {max_steps: 9}\n",
    "packages.yaml": "defaults: [train, _self_]\nhydra: {searchpath: ['pkg://antigravity']}\n",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name, text in OWN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("where", ["--config-dir", "hydra.searchpath"])
def test_an_experiment_of_ones_own_folder_is_found(own, where):
    extra = {"config_dir": own} if where == "--config-dir" else {}
    overrides = [] if extra else [f"hydra.searchpath=[file://{own}]"]
    config = compose("train", [*overrides, "experiment=mine"], **extra)
    found = config["system"]["name"], config["training"]["max_steps"], config["training"]["log_every"], config["evaluation"]["name"]
    assert found == ("classifier_vit_nano", 3, 10, "classification")


def test_config_dir_works_on_the_command_line_of_each_command_with_a_config(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--config-dir", str(own), "experiment=mine"]) == 0
    assert main(["train", "--config-dir", str(own), "--cfg", "job", "--package", "training.max_steps", "experiment=mine"]) == 0
    assert capsys.readouterr().out.strip().endswith("3")
    assert main(["train", "--config-dir", "nowhere", "experiment=mine"]) == 2
    assert "--config-dir: there is no folder nowhere" in capsys.readouterr().err
    assert main(["train", "--config-dir", str(own), "experiment=min"]) == 2
    assert "did you mean 'mine'" in capsys.readouterr().err
    assert main(["evaluate", "--config-dir", str(own), "--cfg", "job", "checkpoint=x", "experiment=minimal"]) == 0
    assert main(["check", "-m", "seed=1,2"]) == 2
    assert "only zoo train and zoo evaluate" in capsys.readouterr().err


def test_parts_settings_and_entry_configs_may_be_ones_own(own):
    config = compose("train", ["encoder@system.encoders.image=my_vit", "training=quick", "training.log_every=3"], config_dir=own)
    assert config["system"]["encoders"]["image"]["dim"] == 48
    assert (config["training"]["max_steps"], config["training"]["log_every"], config["training"]["weight_decay"]) == (5, 3, 0.1)
    assert compose("train", ["training=half"], config_dir=own)["training"]["batch_size"] == 128
    assert compose("train", [], config_dir=own, primary="entry")["training"]["max_steps"] == 9
    assert compose("train", ["experiment=variable"], config_dir=own)["system"]["encoders"]["image"]["dim"] == 48


@pytest.mark.parametrize(
    ("override", "told"), [("training=lacking", "training.batch_size: has no value"), ("experiment=typo", "'training'")]
)
def test_a_mistake_in_ones_own_file_is_told(own, override, told):
    with pytest.raises(zoo.ConfigError, match=told):
        compose("train", [override], config_dir=own)


def test_an_optional_group_may_be_null_also_over_an_experiment(own):
    assert compose("train", ["experiment=mine", "evaluation=null"], config_dir=own)["evaluation"] is None
    assert compose("evaluate", ["checkpoint=c", "data=null", "evaluation=null"])["evaluation"] is None
    assert "experiment" not in compose("train", ["experiment=null", "objective=null"])
    with pytest.raises(zoo.ConfigError, match="data: got None; a run needs one"):
        compose("train", ["data=null"])


def test_a_sweep_may_choose_null_and_everything_that_a_glob_matches(own, tmp_path):
    seen = []
    words = ["-m", "evaluation=null,zero_shot", f"run_dir={tmp_path}/a"]
    run_with_hydra(words, lambda config: seen.append((config["evaluation"] or {}).get("name")))
    run_with_hydra(
        ["-m", "--config-dir", str(own), "experiment=glob(mi*)", f"run_dir={tmp_path}/b"],
        lambda config: seen.append(config["training"]["max_steps"]),
    )
    assert seen == [None, "zero_shot", 3, 4]


SHORT = {
    **{key: "training.learning_rate" for key in ("lr", "training.lr", "+lr", "optimizer.lr")},
    **{key: "training.batch_size" for key in ("bs", "batch_size", "training.bs")},
    **{key: "training.max_steps'? It counts steps" for key in ("epochs", "max_epochs", "trainer.max_epochs")},
    **{key: "training.max_steps" for key in ("trainer.max_steps", "max_steps")},
    "wd": "training.weight_decay",
    "model": "system",
    "dataset": "data",
    "output_dir": "run_dir",
    "encoder=vit_nano": "encoder@system.encoders.image=vit_nano",
}


@pytest.mark.parametrize("key", SHORT)
def test_usual_short_names_get_the_right_key(key):
    with pytest.raises(zoo.ConfigError) as error:
        compose("train", [key if "=" in key else f"{key}=1"])
    assert SHORT[key] in str(error.value)


def test_usual_short_names_get_the_right_key_at_a_resume():
    with pytest.raises(zoo.ConfigError, match=r"training\.lr: .*did you mean 'training.learning_rate'"):
        apply_overrides(compose("train"), ["training.lr=1"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--experimental-rerun", "x.pickle"], "reads a pickle"),
        (["--config-path", "x"], "--config-dir"),
        (["--nonsense"], "no such flag"),
        (["--cfg"], "expected one argument"),
        (["--cfg", "everything"], "invalid choice"),
        (["-m", "--cfg", "job"], "only one"),
        (["--config-name", "mine"], "there is no mine.yaml"),
    ],
)
def test_a_wrong_flag_is_told(words, told):
    with pytest.raises(zoo.ConfigError, match=told):
        read_flags(words)


def test_an_entry_config_imports_no_packages(own):
    with pytest.raises(zoo.ConfigError, match=r"hydra.searchpath: got 'pkg://antigravity'"):
        read_flags(["--config-dir", str(own), "--config-name", "packages"])


CODE = [
    {"launcher": {"_target_": "hydra._internal.utils.os.system", "command": "touch MARK"}},
    {"callbacks": {"x": {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.os.system"}}},
    {"sweeper": {"sampler": {"_target_": "optuna.samplers._base.warnings.sys.exit"}}},
    {"sweeper": {"custom_search_space": "os.system"}},
    {"launcher": "${evil}"},
    {"sweeper": {"sampler": "${..evil}"}},
    {"launcher": {"setup": ["touch MARK"]}},
    {"launcher": {"partition": "a\ntouch MARK"}},
    {"job": {"env_set": {"GIT_CONFIG_COUNT": "1"}}},
]


@pytest.mark.parametrize("node", CODE, ids=range(len(CODE)))
def test_code_that_a_yaml_file_hides_in_hydras_node_is_told(node):
    with pytest.raises(zoo.ConfigError, match=r"^hydra\.\w+"):
        refuse_code_of_hydra(node)


def test_commands_of_a_launcher_may_be_typed():
    refuse_code_of_hydra({"launcher": {"setup": ["module load cuda"]}}, ["hydra.launcher.setup"])


def test_a_missing_launcher_says_what_to_install():
    with pytest.raises(zoo.ConfigError, match=r"hydra/launcher=nope: .*zoo install sweep"):
        compose("train", ["hydra/launcher=nope"])


def test_several_values_without_a_sweep_are_told():
    with pytest.raises(zoo.ConfigError, match="run a sweep with -m"):
        compose("train", ["seed=1,2"])


@pytest.mark.parametrize("command", ["train", "evaluate", "check", "answer"])
def test_help_lists_groups_options_and_examples(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("--config-dir", "evaluation=\n", "zero_shot", "experiment=\n", "quickstart", "examples:", "--json")
    )
    assert ("--multirun" in text) == (command in ("train", "evaluate"))


def test_info_is_printed(tmp_path):
    """In a process of its own: Hydra prints through loggers, which a sweep before would have turned off."""
    code = (
        "from zoo.commands.cli import main; assert not any(main(['train', *words]) for words in (['--info', 'defaults'], ['-i', 'seed=1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "zoo://" in done.stdout and "system/clip_vit_nano" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


LINES = {
    "zoo tr": ["train", "transcribe", "translate"],
    "zoo train data=digit_p": ["data=digit_pairs"],
    "zoo train -m system=clip_vit_n": ["system=clip_vit_nano"],
    "zoo train encoder@system.encoders.image=vig_n": ["encoder@system.encoders.image=vig_nano"],
    "zoo train encoder@system.encoders.t": ["encoder@system.encoders.text="],
    "zoo train training.max_": ["training.max_steps=", "training.max_time="],
    "zoo check --config-": ["--config-dir", "--config-name"],
    "zoo evaluate evaluation=knn": ["evaluation=knn_probe"],
    "zoo evaluate --dev": ["--device"],
    "zoo info vit_tiny_patch16_3": ["vit_tiny_patch16_384"],
    "zoo nonsense ": [],
}


@pytest.mark.parametrize("line", LINES)
def test_the_tab_completes_commands_flags_and_overrides(line):
    assert completions(line, _parser().get_default("commands")) == LINES[line]


def test_the_tab_completes_options_of_ones_own_folder(own):
    line = f"zoo train --config-dir {own} experiment=minim"
    assert completions(line, _parser().get_default("commands")) == ["experiment=minimal"]


BASH = """
zoo() { [ "$2" = --line ] && echo "$3" >&2; printf 'data=digits \\ndata=digit_pairs \\n'; }
eval "$SCRIPT"
COMP_LINE="zoo train data=di" COMP_POINT=17 COMP_WORDS=(zoo train data = di) COMP_CWORD=4
_zoo_complete
printf '%s|' "${COMPREPLY[@]}"
"""


def test_the_script_of_bash_answers_what_stands_behind_the_equals_sign(capfd):
    done = subprocess.run(["bash", "-c", BASH], env={"SCRIPT": SCRIPTS["bash"], "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.stdout == "digits |digit_pairs |", done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_valid(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", "-c", SCRIPTS[shell]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

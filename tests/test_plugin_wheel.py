"""A package with parts of its own, built as a wheel and installed: every command uses its parts by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from resuming import STEPS, Shell, assert_a_killed_run_is_the_whole_one, killed_at

import zoo
from zoo.runs.run_directory import read_run_config

PLUGIN = Path(__file__).parent / "plugin"
SYSTEM = ["system=classifier_swin_nano", "data=stripes", "evaluation=certainty"]
RUN = [
    *(*SYSTEM, f"training.max_steps={STEPS}", "training.batch_size=16", "training.learning_rate=0.01", "training.warmup_steps=2"),
    *("training.checkpoint_every=5", "training.evaluate_every=8", "training.log_every=1", "training.trace=true"),
]
NEEDS = [{"kind": k, "name": n, "distribution": "zoo-swin", "version": "0.3.1"} for k, n in (("encoder", "swin"), ("source", "stripes"))]
NEEDS.append({"kind": "evaluation", "name": "certainty", "distribution": "zoo-swin", "version": "0.3.1"})
pytestmark = [pytest.mark.wheel, pytest.mark.xdist_group("plugin")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel from a copy of the sources and install it into a folder; returns the environment in which it is found."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "sources", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=folder / "sources", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(folder / "installed"), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    return os.pathsep.join(filter(None, [str(folder / "installed"), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory):
    """Train without interruption, and with a kill and a resume; both runs are the same, bit for bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", installed)
        return assert_a_killed_run_is_the_whole_one(Shell(), RUN, tmp_path_factory.mktemp("runs"), killed_at())


def commands(installed, *lines):
    """Run commands of zoo one after the other in one process, each successful; return the standard output of each."""
    code = """
import sys
from zoo.commands.cli import main
for line in sys.argv[1:]:
    assert main(line.split()) == 0, line
    print("\\f")
"""
    environment = {**os.environ, "PYTHONPATH": installed, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *lines], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split("\f\n")


def test_parts_of_an_installed_wheel_go_through_every_command(installed, run, tmp_path):
    Image.fromarray(np.tile((np.arange(32) // 3 % 2 * 255).astype(np.uint8), (32, 1))).save(tmp_path / "picture.png")
    listed, checked, evaluated, classified, *_ = commands(
        installed,
        "list *swin*",
        f"check --json {' '.join(SYSTEM)}",
        f"evaluate --json checkpoint={run} output={tmp_path}/figures",
        f"classify --json {tmp_path}/picture.png --model {run}",
    )
    assert [line.split() for line in listed.splitlines()] == [
        ["classifier_swin_nano", "system", "image", "(zoo-swin)"],
        ["swin_nano", "encoder", "image", "(zoo-swin)"],
    ]
    assert json.loads(checked)["edges"][1]["carries"] == "float32 [4, 3, 32, 32]"
    assert json.loads(evaluated)["evaluation"] == "certainty" and json.loads(evaluated)["certainty"] > 0.8
    assert json.loads(classified)["labels"][0] == "vertical"


def test_a_run_records_what_it_needs_and_says_so_where_it_is_missing(run):
    assert json.loads((run / "environment.json").read_text())["requires"] == NEEDS
    assert yaml.safe_load((run / "last" / "config.yaml").read_text())["requires"] == NEEDS[:1]
    missing = "needs encoder 'swin' of zoo-swin 0.3.1, which is not installed; install it if you trust it"
    for read, origin in ((zoo.load, run / "last"), (read_run_config, run)):
        with pytest.raises(zoo.WeightsError) as error:
            read(origin)
        assert str(error.value) == f"{origin} {missing}"


def test_a_format_of_an_installed_wheel_writes_and_is_read(installed, run, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    _, before, after, *_ = commands(
        installed,
        f"export {run} {tmp_path}/exported --format swin_files",
        f"classify --json {tmp_path}/picture.png --model {run}",
        f"classify --json {tmp_path}/picture.png --model {tmp_path}/exported",
    )
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["model_type"] == "zoo_swin"
    assert json.loads(before) == json.loads(after)

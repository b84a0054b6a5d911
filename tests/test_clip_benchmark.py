"""The public CLIP_benchmark command on a model of ours that was exported to open_clip, against ``zoo evaluate``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.assembly.compose import compose
from zoo.runs.evaluate import evaluate
from zoo.runs.train import train
from zoo.sources.digits import DIGIT_NAMES, Digits

TOWERS = ["system.encoders.image.pool=cls", "system.encoders.image.patch_bias=false", "system.encoders.image.pre_norm=true"]
SCRIPT = Path(zoo.__file__).parent.parent / "scripts" / "benchmark_clip.py"
TEMPLATES = ["a photo of the digit {}", "the number {}"]


def write_idx(path, array):
    """The file format of MNIST: two zeros, the type 8 (uint8), the number of axes, their lengths, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes() + array.astype(np.uint8).tobytes())


def write_digits_as_mnist(root):
    """Our 359 test digits where torchvision looks for MNIST."""
    split = Digits().split("test")
    samples = [split.sample(i) for i in range(len(split))]
    for name in ("t10k", "train"):  # both have to be there
        write_idx(root / "MNIST" / "raw" / f"{name}-images-idx3-ubyte", np.stack([sample.inputs["image"] for sample in samples]))
        write_idx(root / "MNIST" / "raw" / f"{name}-labels-idx1-ubyte", np.array([sample.label for sample in samples]))


def run_clip_benchmark(folder, *model):
    (folder / "names.json").write_text(json.dumps({"mnist": list(DIGIT_NAMES)}))
    (folder / "templates.json").write_text(json.dumps({"mnist": [template.replace("{}", "{c}") for template in TEMPLATES]}))
    words = ["eval", "--dataset", "mnist", "--dataset_root", str(folder), "--pretrained", "none", "--no_amp", *model]
    words += ["--custom_classname_file", str(folder / "names.json"), "--custom_template_file", str(folder / "templates.json")]
    words += ["--num_workers", "0", "--output", str(folder / "result.json")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "result.json").read_text())["metrics"]["acc1"]


@pytest.mark.heavy
def test_clip_benchmark_gives_our_own_figure(tmp_path):
    steps = [
        "training.max_steps=150",
        "training.warmup_steps=10",
        "training.batch_size=64",
        "training.learning_rate=3e-3",
        "training.evaluate_every=0",
    ]
    config = compose("train", [*TOWERS, *steps, "training.threads=1", f"run_dir={tmp_path / 'run'}"])
    system = zoo.load(train(config).model)
    zoo.export(system, tmp_path / "out", format="open_clip")
    write_digits_as_mnist(tmp_path)
    words = [f"checkpoint={tmp_path / 'run'}", "evaluation=zero_shot", f"evaluation.templates={json.dumps(TEMPLATES)}"]
    result, _ = evaluate(compose("evaluate", words))
    ours = result.metrics["top1"]
    exported = run_clip_benchmark(tmp_path, "--model", f"local-dir:{tmp_path / 'out'}")
    assert ours > 0.2, "untrained: the comparison would say little"
    assert exported == pytest.approx(ours, abs=1e-3)
    assert run_clip_benchmark(tmp_path, "--model_type", "zoo", "--model", str(tmp_path / "run")) == pytest.approx(ours, abs=1e-3)

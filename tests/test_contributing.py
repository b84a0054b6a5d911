"""Every file and command of the contributor's guide works as printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
FILES = {re.match(r"# (\S+)", text)[1]: text.split("\n", 1)[1] for language, text in BLOCKS if language in ("python", "yaml")}
COMMANDS = [text for language, text in BLOCKS if language == "bash"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which the guide's files are added."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("zoo", "conf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "assets").symlink_to(ROOT / "assets")
    for name, text in FILES.items():
        assert not (folder / name).exists(), f"{name} of the guide exists already; choose another name there"
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "bin").mkdir()
    (folder / "bin" / "zoo").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zoo "$@"\n', encoding="utf-8")
    (folder / "bin" / "zoo").chmod(0o755)
    return folder


def run(words: list[str], folder: Path) -> None:
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"


def test_every_fence_is_closed_and_every_path_exists():
    assert len(re.findall(r"^ *```", GUIDE, re.MULTILINE)) == 2 * len(BLOCKS)
    words = {path for path in re.findall(r"`((?:zoo|tests|conf|scripts)/[\w/.]+)`", GUIDE) if "NAME" not in path}
    assert not {path for path in words - FILES.keys() if not (ROOT / path).exists()}


def test_the_files_of_the_guide_keep_the_style(checkout):
    python = [name for name in FILES if name.endswith(".py")]
    run([sys.executable, "-m", "ruff", "check", *python], checkout)
    run([sys.executable, "-m", "ruff", "format", "--check", *python], checkout)


@pytest.mark.heavy
@pytest.mark.parametrize("command", COMMANDS, ids=lambda text: text.split("\n", 1)[0].rpartition("/")[2])
def test_commands_of_the_guide_run(command, checkout):
    run(["bash", "-euo", "pipefail", "-c", command], checkout)

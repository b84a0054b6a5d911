"""Every command and program of the README runs as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block of the README; ``line`` is the number of its first line inside the fence."""

    language: str
    line: int
    text: str


def read_blocks() -> list[Block]:
    found = re.finditer(r"^```(bash|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [Block(match[1], README.count("\n", 0, match.start(2)) + 1, match[2]) for match in found]


BLOCKS = read_blocks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand: the repository's root, with nothing run yet. Blocks run in order and build on each other.

    The scripts are the real ones but for two: this environment is the one they prepare, and the tests do not run themselves.
    """
    folder = tmp_path_factory.mktemp("readme")
    for name in ("assets", "conf"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    with (folder / "scripts" / "environment.sh").open("a", encoding="utf-8") as environment:
        environment.write(f"prepare_environment() {{ ZOO_VENV='{sys.prefix}'; }}\n")
    (folder / "scripts" / "test.sh").write_text("exit 0\n", encoding="utf-8")
    return folder


def run(command: list[str], folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"


def test_first_command_stands_near_the_top() -> None:
    first = next(block for block in BLOCKS if block.language == "bash")
    assert first.line <= 25


def test_every_fence_is_closed_and_read() -> None:
    assert len(BLOCKS) == len(re.findall(r"^ *```(?:bash|python|sh|shell|console|py)\b", README, re.MULTILINE))
    assert len(re.findall(r"^ *```", README, re.MULTILINE)) % 2 == 0


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=lambda block: f"line {block.line}")
def test_bash_block_parses_and_its_scripts_exist(block: Block, tmp_path: Path) -> None:
    run(["bash", "-n", "-c", block.text], tmp_path)
    for name in re.findall(r"\bscripts/\S+", block.text):
        assert (ROOT / name).is_file(), name


@pytest.mark.heavy
@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.text.startswith("# not run")], ids=lambda block: f"line {block.line}")
def test_block_runs(block: Block, folder: Path) -> None:
    if block.language == "python":
        run([sys.executable, "-c", block.text], folder)
    else:
        run(["bash", "-euo", "pipefail", "-c", block.text], folder)

"""Every command and program of the README runs as printed."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from quickstart import ROOT, run

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
def test_block_runs(block: Block, quickstart: Path) -> None:
    """Run the blocks in order; each finds the files of the earlier ones. The fixture has run the first block."""
    if block is BLOCKS[0]:
        assert block.text == "bash scripts/quickstart.sh\n" and (quickstart / "runs" / "quickstart" / "last").is_dir()
    elif block.language == "python":
        run([sys.executable, "-c", block.text], quickstart)
    else:
        run(["bash", "-euo", "pipefail", "-c", block.text], quickstart)

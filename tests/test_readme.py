"""Every command and program of the README runs as printed, in the environment that its first command makes."""

import re
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
from declared import ROOT, installed_packages, quickstart_extras, requirements_of
from quickstart import run

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


def test_the_readme_is_short() -> None:
    assert len(README.split()) < 900


def test_every_fence_is_closed_and_read() -> None:
    assert len(BLOCKS) == len(re.findall(r"^ *```(?:bash|python|sh|shell|console|py)\b", README, re.MULTILINE))
    assert len(re.findall(r"^ *```", README, re.MULTILINE)) % 2 == 0


def test_links_and_pictures_of_the_readme_exist() -> None:
    targets = re.findall(r"\]\(([^)]+)\)|(?:src|href|srcset)=\"([^\"]+)\"", README)
    names = {name.partition("#")[0] for pair in targets for name in pair if name and not name.startswith("#")}
    assert names and not {name for name in names if not (ROOT / name).is_file()}


def test_the_picture_is_current() -> None:
    draw = runpy.run_path(str(ROOT / "scripts" / "draw_overview.py"))["draw"]
    assert draw() == (ROOT / "assets" / "overview.svg").read_text(encoding="utf-8"), "run: python scripts/draw_overview.py"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=lambda block: f"line {block.line}")
def test_bash_block_parses_and_its_scripts_exist(block: Block, tmp_path: Path) -> None:
    run(["bash", "-n", "-c", block.text], tmp_path)
    for name in re.findall(r"\bscripts/\S+", block.text):
        assert (ROOT / name).is_file(), name


@pytest.mark.heavy
def test_the_environment_lacks_what_quickstart_does_not_install(quickstart: Path) -> None:
    """Otherwise the next test would not notice a package that README's commands need and quickstart.sh forgets."""
    absent = {"pytest", "openai", "webdataset", "bitsandbytes"}
    assert not absent & set(installed_packages([*requirements_of(), *requirements_of(*(e for e in quickstart_extras() if e != "demo"))]))
    names = ", ".join(f"'{name}'" for name in sorted(absent))
    run(["python", "-c", f"import zoo, torch, importlib.util as util; assert not any(map(util.find_spec, ({names})))"], quickstart)


@pytest.mark.heavy
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_block_runs(block: Block, quickstart: Path) -> None:
    """Run the blocks in order; each finds the files of the earlier ones. The fixture has run the first block."""
    text, first = block.text, "bash scripts/quickstart.sh\n"
    if block is BLOCKS[0]:
        assert text.startswith(first) and (quickstart / "runs" / "quickstart" / "last").is_dir()
        text = text.removeprefix(first)
    run(["python", "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text], quickstart)

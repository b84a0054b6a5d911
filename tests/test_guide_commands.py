"""Every command and program of the guide's pages runs as printed, and every option that a page names exists."""

import re
import shlex

import pytest
from quickstart import ROOT, run

from zoo.commands.cli import _parser, main
from zoo.commands.guide import CONTENTS, guide_directory, pages

NOT_RUN = "# not run"  # first words of a block that needs a server, a hub or hours
TRAINS = ("interpolate", "kosmos", "llava", "speech", "train")  # pages with runs of a few steps
SHELL = re.compile(r"[$|;&<>`*]")
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(guide_directory().glob("*.md"))}


def blocks_of(topic):
    """Return language and text of each fenced block that runs."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXTS[topic], re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in ("bash", "python") and not text.startswith(NOT_RUN)]


def steps_of(block):
    """Return the commands of zoo in a block as lists of words, and the shell lines between them as strings."""
    if "resume=" in block:  # a resumed run checks its random state, which beartype changes in this process
        return [block]
    steps = []
    for line in block.replace("\\\n", "").splitlines():
        if line.startswith("zoo ") and not SHELL.search(re.sub(r"'[^']*'|\"[^\"$`]*\"", "", line)):
            steps.append(shlex.split(line, comments=True)[1:])
        elif steps and isinstance(steps[-1], str):
            steps[-1] += f"{line}\n"
        else:
            steps.append(f"{line}\n")
    return steps


def run_bash(block, folder):
    for step in steps_of(block):
        if isinstance(step, list):  # in this process, which has imported everything
            assert main(step) == 0, step
        else:
            run(["bash", "-euo", "pipefail", "-c", step], folder)


def run_python(block, known, capsys):
    """Run a block; each text behind ``# ->`` must be a printed line, in this order."""
    capsys.readouterr()
    exec(compile(block, "guide", "exec"), known)
    printed = capsys.readouterr().out.splitlines()
    wanted = re.findall(r"# -> (.*)$", block, re.MULTILINE)
    assert [line for line in printed if line in wanted] == wanted, printed


def run_page(topic, folder, monkeypatch, capsys):
    for name in ("assets", "conf", "scripts"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    known = {"__name__": "guide"}
    for language, text in blocks_of(topic):
        run_bash(text, folder) if language == "bash" else run_python(text, known, capsys)


APART = ("start", "preferences")  # a test of its own runs these pages
TOPICS = [topic for topic in TEXTS if topic not in APART and blocks_of(topic)]


@pytest.mark.parametrize("topic", [pytest.param(topic, marks=[pytest.mark.heavy] * (topic in TRAINS)) for topic in TOPICS])
def test_the_commands_of_a_page_run(topic, tmp_path, monkeypatch, capsys):
    run_page(topic, tmp_path, monkeypatch, capsys)


@pytest.mark.heavy
def test_the_commands_of_the_first_page_run(quickstart, monkeypatch, capsys):
    """Run the page behind its first command, which the fixture has run."""
    (language, first), *_ = blocks_of("start")
    assert (language, first) == ("bash", "bash scripts/quickstart.sh\n")
    monkeypatch.setitem(TEXTS, "start", TEXTS["start"].replace(f"```bash\n{first}```\n", ""))
    run_page("start", quickstart, monkeypatch, capsys)


def commands_of(text):
    blocks = re.findall(r"^```(?:bash|text)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [line for line in lines if line.startswith("zoo ")]


@pytest.mark.parametrize("topic", [topic for topic in TEXTS if commands_of(TEXTS[topic])])
def test_commands_that_are_not_run_are_commands_of_zoo(topic):
    for line in commands_of(TEXTS[topic]):
        words = shlex.split(re.sub(r"\$\([^)]*\)", "VALUE", line).split(" | ")[0], comments=True)
        known, rest = _parser().parse_known_args(words[1:])  # exits if an option does not exist
        assert known.takes_overrides or not rest, line
        assert all("=" in word or word.startswith(("-", "hydra")) for word in rest), line


def test_the_contents_list_every_page_once():
    topics = [page.topic for page in pages()]
    assert sorted(topics) == sorted(topic for topic in TEXTS if topic != CONTENTS.removesuffix(".md"))
    assert all(page.description and len(page.topic) + len(page.description) < 100 for page in pages())


def test_every_page_begins_with_its_only_title():
    for topic, text in TEXTS.items():
        outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert text.startswith("# ") and len(re.findall(r"^# ", outside, re.MULTILINE)) == 1, topic


def test_every_fence_is_closed_and_no_conflict_of_a_merge_is_left():
    for topic, text in TEXTS.items():
        assert not re.search(r"^(<{7}|={7}$|>{7})", text, re.MULTILINE), topic
        assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0, topic


@pytest.mark.parametrize("word", ["forward_intermediates", "features_only", "reset_classifier", "set_grad_checkpointing"])
def test_the_words_of_timm_lead_to_ours(word):
    assert word in TEXTS["python"]

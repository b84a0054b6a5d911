"""zoo install, doctor, guide and --version: the installation itself, and the hints of missing packages."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.commands.cli import main
from zoo.commands.doctor import NEEDS
from zoo.layers.low_precision.cpu import reason_to_avoid
from zoo.storage import distribution

ROOT = Path(__file__).parents[1]


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == distribution.version()


def test_every_hint_names_an_extra():
    hints = {
        hint: path.name
        for path in [*(ROOT / "zoo").rglob("*.py"), *(ROOT / "assets" / "guide").glob("*.md"), ROOT / "README.md"]
        for hint in re.findall(r"zoo install ([a-z]\w*)", path.read_text(encoding="utf-8"))
    }
    assert len(hints) > 10
    assert not set(hints) - set(distribution.extras()), hints
    for path in (ROOT / "zoo").rglob("*.py"):  # such a command takes today's newest torch
        assert "pip install 'multimodal-zoo[" not in path.read_text(encoding="utf-8"), path


def test_an_extra_is_installed_in_the_tested_versions(capsys):
    assert main(["install", "all", "--dry-run"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[1:5] == ["-m", "pip", "install", "-c"]
    assert "timm<2" in words and not any("multimodal-zoo" in word or "extra ==" in word for word in words[6:])
    assert distribution.tested_versions()["torch"] == "2.11.0"


def test_installing_keeps_torch(monkeypatch, capsys):
    """pip gets the text of constraints.txt, which pins torch."""
    seen = {}

    class Done:
        returncode = 0

    def run(command, check):
        seen["pins"] = Path(command[5]).read_text(encoding="utf-8")
        return Done()

    monkeypatch.setattr("subprocess.run", run)
    assert main(["install", "audio"]) == 0
    assert "torch==2.11.0" in seen["pins"].splitlines()


@pytest.mark.parametrize(("words", "said"), [(["install", "vison"], "'vision'"), (["guide", "transcrib"], "'transcribe'")])
def test_a_wrong_name_gets_a_near_match(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_the_wheel_carries_the_pins(monkeypatch, tmp_path):
    """Without a checkout the text comes from the installed package's metadata."""
    monkeypatch.setattr("zoo.__file__", str(tmp_path / "site-packages" / "zoo" / "__init__.py"))
    assert "torch==2.11.0" in distribution.constraints()


def test_the_list_of_extras(capsys):
    assert main(["install", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["extra"] for row in rows} == set(distribution.extras())
    assert not next(row for row in rows if row["extra"] == "vision")["missing"]


def test_doctor(capsys):
    status = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["torch"].startswith("2.")
    named = {extra for extras in NEEDS.values() for extra in extras}
    assert set(distribution.extras()) - named <= {"all", "test", "vision", "demo", "docs", "bench"}  # vision is part of the core
    assert named <= set(distribution.extras())
    assert status == int(bool(report["different"]))


def test_doctor_names_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(distribution, "installed_version", lambda name: None if name == "peft" else "1.0")
    assert main(["doctor"]) == 1  # 1.0 is not what is tested
    out = capsys.readouterr().out
    assert ("\nbf16  " in out) == (reason_to_avoid("bf16") is not None) and re.search(r"^cpu has +\w", out, re.MULTILINE)
    assert re.search(r"train with adapters \(LoRA\) +needs: zoo install peft", out)
    assert "torch 1.0 is installed, 2.11.0 is tested" in out


def test_guides_are_listed_and_read(capsys):
    assert main(["guide"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [topic for topic, _ in lines][:2] == ["start", "concepts"]  # in reading order
    assert {topic for topic, _ in lines} == {path.stem for path in (ROOT / "assets" / "guide").glob("*.md")} - {"index"}
    assert main(["guide", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[each["topic"], each["description"]] for each in told] == lines and told[0]["section"] == "Begin"
    assert main(["guide", "export"]) == 0
    assert capsys.readouterr().out == (ROOT / "assets" / "guide" / "export.md").read_text(encoding="utf-8")


@pytest.fixture
def installer(tmp_path):
    """Run install_packages of scripts/environment.sh; returns the commands, with stubs in place of pip and uv."""
    bin_folder, log = tmp_path / "venv" / "bin", tmp_path / "log"
    bin_folder.mkdir(parents=True)
    uv = f'#!/bin/sh\necho "uv $UV_INDEX $UV_DEFAULT_INDEX $@" >>{log}; exit "$UV_STATUS"\n'
    (bin_folder / "python").write_text(
        f'#!/bin/sh\n[ "$1" = - ] && exec {sys.executable} -\necho "$@" >>{log}\n'
        f"case \"$*\" in *--target*) mkdir -p {bin_folder}/../uv/bin && cat >{bin_folder}/../uv/bin/uv <<'END' && "
        f"chmod +x {bin_folder}/../uv/bin/uv\n{uv}END\nexit $FETCH_STATUS;; esac\n"
    )
    (bin_folder / "python").chmod(0o755)
    script = f"set -euo pipefail; source {ROOT / 'scripts' / 'environment.sh'}; ZOO_VENV={tmp_path / 'venv'}; install_packages -e 'a[b]'"

    def run(**settings):
        log.write_text("")
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        environment = {**clean, "PIP_CONFIG_FILE": os.devnull, "FETCH_STATUS": "0", "UV_STATUS": "0", **settings}
        subprocess.run(["bash", "-c", script], env=environment, check=True, capture_output=True)
        return [re.sub(r"--progress-bar off |--\S+ |\S*/venv\S* ", "", line) for line in log.read_text().splitlines()]

    return run


def test_packages_are_installed_by_uv_with_the_index_of_pip(installer):
    fetch, install = installer(PIP_INDEX_URL="https://example.org/simple")
    assert fetch.startswith("-m pip install") and "uv==" in fetch
    assert install == "uv  https://example.org/simple pip install -e a[b]"
    _, install = installer(PIP_INDEX_URL="https://example.org/simple", PIP_EXTRA_INDEX_URL="file:///one file:///two")
    assert install == "uv https://example.org/simple file:///one file:///two pip install -e a[b]"  # uv prefers them in this order


@pytest.mark.parametrize(
    "settings", [{"FETCH_STATUS": "1"}, {"UV_STATUS": "2"}, {"ZOO_INSTALLER": "pip"}, {"PIP_TRUSTED_HOST": "example.org"}]
)
def test_pip_installs_where_uv_cannot_be_used(installer, settings):
    assert installer(**settings)[-1] == "-m pip install -e a[b]"

"""A short run of the fuzz harness; ``fuzz.py`` tells how to run a long one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = str(Path(__file__).parent / "fuzz.py")


@pytest.mark.heavy
@pytest.mark.parametrize(("command", "status"), [(["--intact"], 0), (["--inputs", "400", "--seed", "0"], 0)], ids=["intact", "changed"])
def test_hostile_inputs_are_read_or_told(tmp_path, command, status):
    done = subprocess.run([sys.executable, FUZZ, *command, "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert json.loads(done.stdout[: done.stdout.index("}") + 1])

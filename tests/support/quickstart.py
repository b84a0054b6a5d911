"""Folder in which a reader runs the README's commands, and the training that they start."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lay_out(folder: Path) -> None:
    """The repository's root, with nothing run yet.

    The scripts are the real ones but for two: this environment is the one they prepare, and the tests do not run themselves.
    """
    for name in ("assets", "conf"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    with (folder / "scripts" / "environment.sh").open("a", encoding="utf-8") as environment:
        environment.write(f"prepare_environment() {{ ZOO_VENV='{sys.prefix}'; }}\n")
    (folder / "scripts" / "test.sh").write_text("exit 0\n", encoding="utf-8")


def run(command: list[str], folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"

"""Folder in which a reader runs the README's commands, and the environment that they run in."""

import os
import shutil
import subprocess
from pathlib import Path

from declared import make_environment, project, quickstart_extras
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def lay_out(folder: Path) -> None:
    """The repository's root, with nothing run yet, and the environment that scripts/quickstart.sh makes.

    The environment is a real one, and holds the packages that the script installs and no others, as links. The scripts are the real ones
    but for two: nothing is installed, and the tests do not run themselves.
    """
    for name in ("assets", "conf"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    within = {extra for line in project()["optional-dependencies"]["test"] for extra in Requirement(line).extras}
    make_environment(folder / ".venv", *(extra for extra in quickstart_extras() if extra in within))
    with (folder / "scripts" / "environment.sh").open("a", encoding="utf-8") as environment:
        environment.write("prepare_environment() { export ZOO_VENV=$ZOO_ROOT/.venv; }\n")
    (folder / "scripts" / "test.sh").write_text("exit 0\n", encoding="utf-8")


def run(command: list[str], folder: Path) -> None:
    """Run a command offline, in the environment of the folder and with no other packages."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"PATH": os.pathsep.join([str(folder / ".venv" / "bin"), os.environ.get("PATH", "")])}
    environment |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"

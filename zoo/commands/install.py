"""``zoo install``: install optional packages in the versions that are tested together, without replacing torch."""

import importlib.util
import json
import shlex
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from zoo.errors import ConfigError
from zoo.storage import distribution


def install_command(options: Namespace) -> int:
    """Install the packages of the extras that are named; without a name, list the extras and what is missing of each.

    Returns:
        0, or the exit status of pip.

    Raises:
        ConfigError: an extra is unknown, or the environment has no pip.
    """
    if not options.extras:
        return _list_extras(as_json=options.json)
    wanted = {str(each): each for name in options.extras for each in distribution.requirements(name)}
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(f"{sys.prefix}: this environment has no pip; add it with: python -m ensurepip, then run the same command again")
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / distribution.CONSTRAINTS
        pins.write_text(distribution.constraints(), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-c", str(pins), *wanted]
        if options.dry_run:
            print(json.dumps({"command": command}) if options.json else shlex.join(command))
            return 0
        return subprocess.run(command, check=False).returncode


def _list_extras(*, as_json: bool) -> int:
    rows = {name: distribution.requirements(name) for name in distribution.extras()}
    for name, packages in rows.items():
        absent = distribution.missing(packages)
        if as_json:
            print(json.dumps({"extra": name, "packages": [each.name for each in packages], "missing": absent}))
        else:
            print(f"{name:<14}{'installed' if not absent else 'missing: ' + ', '.join(absent)}")
    return 0

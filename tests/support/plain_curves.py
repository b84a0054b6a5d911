"""Runs that draw no figure of their curves, which takes longer than their steps.

``tests/training/test_curves.py`` tests the figure. Commands in shells and the run of ``tests/training/test_run.py`` draw theirs.
"""

import json
from pathlib import Path

import zoo.training.loop
from zoo.storage.files import write_whole
from zoo.training.curves import _panels


def write_panels(metrics: Path, output: Path, timing: Path | None = None) -> None:
    """Write the names of the panels in place of their figure."""
    write_whole(output, json.dumps(list(_panels(metrics, timing))).encode())


def install(draw=write_panels) -> None:
    """Let training runs of this process draw so."""
    zoo.training.loop.draw_curves = draw

"""Options of every command that runs a model: its device and its precision."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

DEFAULTS = {"device": "auto", "precision": "auto"}
HELP = {
    "device": "torch device: auto (default; the GPU if there is one), cpu, cuda, cuda:1, ...",
    "precision": "auto (default; bf16 on a GPU that has it, else fp32), fp32, bf16, fp16, fp64, or int8 and int4 on a CPU",
}
RUNS_A_MODEL = (
    *("evaluate", "classify", "embed", "search", "chat", "answer", "speak", "transcribe", "translate", "draw-graph"),
    *("serve", "demo", "interpolate"),
)


def add_model_options(command: ArgumentParser, *, takes_overrides: bool) -> None:
    """Add ``--device`` and ``--precision``; a command with a config has both as keys, whose defaults stand there."""
    for name, text in HELP.items():
        command.add_argument(f"--{name}", default=None if takes_overrides else DEFAULTS[name], metavar=name[0].upper(), help=text)


def as_overrides(options: Namespace) -> list[str]:
    """Return the options that were given as overrides of a config."""
    return [f"{name}={value}" for name, value in vars(options).items() if name in DEFAULTS and value is not None]


def placement(options: Namespace) -> dict[str, Any]:
    """Return the keywords ``device`` and ``precision`` of ``zoo.load`` and ``zoo.create_model``.

    Raises:
        ConfigError: torch cannot use the device here, or there is no such precision.
    """
    from zoo.assembly.placement import find_device, find_precision  # torch, which ``zoo --help`` does not need

    device = find_device(options.device, "--device")
    return {"device": device, "precision": find_precision(options.precision, device=device, key="--precision")}


def load_chosen(source: str | Path, options: Namespace) -> Any:
    """Load a model onto the device and in the precision of the options."""
    from zoo.assembly.save_load import load

    return load(source, **placement(options))

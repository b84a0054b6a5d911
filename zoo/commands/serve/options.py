"""Options of ``zoo serve``."""

from argparse import ArgumentParser
from collections.abc import Iterable

from zoo.commands.serve.limits import Limits

NUMBERS = {  # field of Limits: (metavar, help)
    "max_batch": ("N", "items that a model computes at once"),
    "max_wait_ms": ("MS", "longest time that a request waits for others to fill its batch"),
    "max_requests": ("N", "requests that may wait or run at once; others get status 429"),
    "max_body_mb": ("MB", "largest body of a request"),
    "max_pixels": ("N", "largest image, width times height"),
    "max_audio_seconds": ("S", "longest recording"),
    "max_inputs": ("N", "texts or images in one request"),
    "max_characters": ("N", "longest text that is spoken"),
    "max_sentence_seconds": ("S", "longest sound of one sentence that is spoken"),
    "max_new_tokens": ("N", "longest answer of a chat, in tokens"),
    "timeout": ("S", "longest time of a request, from its arrival to the end of its answer"),
    "grace": ("S", "time that running requests get after Ctrl-C or SIGTERM"),
}


def add_serve_options(command: ArgumentParser) -> None:
    """Add the options; those of ``Limits`` have its defaults."""
    command.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]M",
        help="run directory, saved model or name of a bundled model, perhaps under another NAME; repeat for several models",
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    command.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000; 0 takes a free one)")
    command.add_argument(
        "--api-key", metavar="KEY", help="key that requests must send; default: the environment variable ZOO_API_KEY, or none"
    )
    add_limits(command, NUMBERS)


def add_limits(command: ArgumentParser, names: Iterable[str]) -> None:
    """Add an option for each of these fields of ``Limits``, with its default."""
    for name in names:
        metavar, text = NUMBERS[name]
        default = Limits.__dataclass_fields__[name].default
        kind = float if isinstance(default, float) else int
        command.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, metavar=metavar, help=f"{text} (default: {default:g})"
        )

"""Options of ``zoo demo``."""

from argparse import ArgumentParser, Namespace

from zoo.commands.serve.options import add_limits

LIMITS = (  # fields of serve's ``Limits`` that hold here
    *("max_requests", "max_body_mb", "max_pixels", "max_audio_seconds", "max_inputs", "max_characters", "max_sentence_seconds"),
    *("max_new_tokens", "timeout"),
)


def add_demo_options(command: ArgumentParser) -> None:
    """Add the options."""
    command.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="TAB=M",
        help="model of a tab (classify, search, chat, transcribe, speak, graph): directory or name; repeat for several tabs",
    )
    command.add_argument("--index", metavar="DIR", help="index written by zoo embed, for the tab search")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    command.add_argument("--port", type=int, default=7860, help="port to listen on (default: 7860; 0 takes a free one)")
    add_limits(command, LIMITS)


def run_demo(options: Namespace, rest: list[str]) -> int:
    """Run the command; its code is imported only now, which keeps ``zoo --help`` fast."""
    from zoo.commands.demo.command import demo_command

    return demo_command(options)

"""Options of ``zoo interpolate``; imported by the parser, so that nothing heavy is imported here."""

from argparse import ArgumentParser


def add_interpolate_options(command: ArgumentParser) -> None:
    """Add the models, their shares, the evaluations and the output."""
    command.add_argument("models", nargs="+", metavar="MODEL", help="two or more run directories, saved models or bundled names")
    command.add_argument("--output", "-o", metavar="DIR", required=True, help="directory of the new model")
    chosen = command.add_mutually_exclusive_group()
    chosen.add_argument(
        "--weights",
        metavar="W",
        help="share of each model, for example 0.2,0.3,0.5; one number is the share of the second of two models (default: equal shares)",
    )
    chosen.add_argument(
        "--greedy", action="store_true", help="greedy soup: from the best model on, keep each that does not lower the first --evaluate"
    )
    command.add_argument(
        "--evaluate",
        nargs="+",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="evaluate with these settings of zoo evaluate, for example data=digits evaluation=zero_shot; repeat for several data",
    )
    command.add_argument("--curve", type=int, metavar="N", help="evaluate N shares of the second of two models, from 0 to 1, and draw them")
    command.add_argument("--monitor-mode", default="max", help="of --greedy: max (default) if higher metrics are better, or min")

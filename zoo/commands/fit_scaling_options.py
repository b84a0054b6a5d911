"""Options of ``zoo fit-scaling``; imported by the parser, so that nothing heavy is imported here."""

from argparse import ArgumentParser


def add_fit_scaling_options(command: ArgumentParser) -> None:
    """Add the runs, the budget and the outputs."""
    command.add_argument(
        "runs", nargs="+", metavar="RUN", help="directories of finished runs, or tables (.csv, .jsonl) with parameters, tokens and loss"
    )
    command.add_argument(
        "--loss",
        default="auto",
        help="loss of a run: the logarithm of its last perplexity (evaluation), the mean of the last tenth of its training losses "
        "(training), or the first if there is one (auto, default)",
    )
    command.add_argument("--law", default="chinchilla", help="form of the law: chinchilla (default), kaplan or both")
    command.add_argument("--budget", type=float, metavar="FLOPS", help="find the best size and data for this many operations, C = 6 N D")
    command.add_argument(
        "--bootstrap", type=int, default=100, metavar="N", help="samples for the 95 %% intervals; 0 for none (default: 100)"
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of the samples (default: 0)")
    command.add_argument("--output", "-o", metavar="FILE", help="picture to write: .png, .pdf or .svg")

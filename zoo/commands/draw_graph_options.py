"""Options of ``zoo draw-graph``."""

from argparse import ArgumentParser


def add_draw_graph_options(command: ArgumentParser) -> None:
    """Add the options of the command."""
    command.add_argument("image", metavar="IMAGE", help="image file")
    command.add_argument(
        "--model", help="model name, run directory, saved model or name of a bundled model; default: the bundled clip_vig_nano"
    )
    command.add_argument("--weights", help="weights for a model given by name: a published .pth file or a saved model")
    command.add_argument("--weights-parts", nargs="+", metavar="PART", help="load only these parts of the weights, for example encoder")
    command.add_argument("--layer", metavar="K,...", help="comma-separated block indices, from 0; default: first, middle and last block")
    command.add_argument(
        "--node",
        action="append",
        metavar="ROW,COL",
        help="patch position, counted from 0 at the top left; repeat for several; default: the centre",
    )
    command.add_argument(
        "--output", "-o", metavar="FILE", default="graph.png", help="plot to write: .png, .pdf, .svg or .jpg (default: graph.png)"
    )

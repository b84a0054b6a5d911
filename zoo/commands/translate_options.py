"""Options of ``zoo translate``; imported by the parser, so that nothing heavy is imported here."""

from argparse import ArgumentParser


def add_translate_options(command: ArgumentParser) -> None:
    """Add the text, the model, the search and the output."""
    command.add_argument("text", metavar="TEXT|FILE", help="a text, or a UTF-8 file with one text per line")
    command.add_argument(
        "--model", metavar="M", required=True, help="run directory, saved model, transformers directory or hf://OWNER/NAME"
    )
    command.add_argument("--output", "-o", metavar="FILE", help="write the translations to a file, one per line, instead of the terminal")
    command.add_argument(
        "--prefix", default="", metavar="T", help='put before every text, for example "translate English to German: " for T5'
    )
    command.add_argument("--num-beams", type=int, metavar="N", help="width of the beam search (default: the model's, or 4)")
    command.add_argument("--length-penalty", type=float, metavar="A", help="exponent of GNMT's length penalty (default: 0.6)")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts per batch (default: 32)")

"""Train a model: the same as ``zoo train``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

"""Evaluate a checkpoint: the same as ``zoo evaluate``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))

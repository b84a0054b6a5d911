"""Validate a training config without allocating weights: the same as ``zoo check``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))

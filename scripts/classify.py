"""Classify images: the same as ``zoo classify``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["classify", *sys.argv[1:]]))

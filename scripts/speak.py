"""Synthesize speech from text: the same as ``zoo speak``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["speak", *sys.argv[1:]]))

"""Translate texts: the same as ``zoo translate``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["translate", *sys.argv[1:]]))

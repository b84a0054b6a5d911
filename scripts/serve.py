"""Serve models over HTTP: the same as ``zoo serve``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))

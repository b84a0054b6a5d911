"""Fit scaling laws to finished runs: the same as ``zoo fit-scaling``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["fit-scaling", *sys.argv[1:]]))

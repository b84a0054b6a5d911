"""Download pretrained weights and datasets: the same as ``zoo fetch``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["fetch", *sys.argv[1:]]))

"""Embed a folder of images into a search index: the same as ``zoo embed``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))

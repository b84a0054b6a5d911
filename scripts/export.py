"""Export a model to the file format of another library: the same as ``zoo export``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))

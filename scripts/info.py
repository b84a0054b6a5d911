"""Show what a model is made of and what is verified of it: the same as ``zoo info``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["info", *sys.argv[1:]]))

"""Write a model as another library's files: the same as ``zoo export``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))

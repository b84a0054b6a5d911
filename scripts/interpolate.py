"""Average the weights of models: the same as ``zoo interpolate``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["interpolate", *sys.argv[1:]]))

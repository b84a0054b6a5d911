"""Plot the graph neighbours of an image patch: the same as ``zoo draw-graph``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["draw-graph", *sys.argv[1:]]))

"""Generate answers to the questions of a data source: the same as ``zoo answer``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["answer", *sys.argv[1:]]))

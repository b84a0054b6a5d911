"""Search an index with a text or an image query: the same as ``zoo search``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))

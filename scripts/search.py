"""Search an index for a text or an image: the same as ``zoo search``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))

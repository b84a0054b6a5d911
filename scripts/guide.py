"""Read a page of the documentation: the same as ``zoo guide``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["guide", *sys.argv[1:]]))

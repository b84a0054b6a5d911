"""Show a model's parts, costs and test results: the same as ``zoo info``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["info", *sys.argv[1:]]))

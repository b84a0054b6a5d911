"""Show versions, devices, caches and missing packages: the same as ``zoo doctor``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))

"""List available models: the same as ``zoo list``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["list", *sys.argv[1:]]))

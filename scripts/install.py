"""Install optional packages in the tested versions: the same as ``zoo install``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["install", *sys.argv[1:]]))

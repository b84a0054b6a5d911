"""Chat with a multimodal language model: the same as ``zoo chat``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["chat", *sys.argv[1:]]))

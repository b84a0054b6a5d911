"""Transcribe recordings: the same as ``zoo transcribe``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["transcribe", *sys.argv[1:]]))

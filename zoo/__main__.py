"""Run the command line as ``python -m zoo``, for example ``torchrun --nproc-per-node 2 -m zoo train ...``."""

import sys

from zoo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())

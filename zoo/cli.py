"""The old path of the command line; ``python -m zoo`` replaces ``python -m zoo.commands.cli``, which goes away with the next release."""

import sys
import warnings

from zoo.commands.cli import main

if __name__ == "__main__":
    print("zoo: python -m zoo.commands.cli is deprecated and goes away with the next release; use python -m zoo", file=sys.stderr)
    sys.exit(main())
else:
    warnings.warn("zoo.commands.cli moved to zoo.commands.cli and goes away with the next release", DeprecationWarning, stacklevel=2)

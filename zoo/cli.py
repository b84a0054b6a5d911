"""Old path of the command line: ``python -m zoo`` replaces ``python -m zoo.cli``, which the next release removes."""

import sys
import warnings

from zoo.commands.cli import main

if __name__ == "__main__":
    print("zoo: python -m zoo.cli is deprecated and will be removed in the next release; use python -m zoo", file=sys.stderr)
    sys.exit(main())
else:
    warnings.warn("zoo.cli moved to zoo.commands.cli and will be removed in the next release", DeprecationWarning, stacklevel=2)

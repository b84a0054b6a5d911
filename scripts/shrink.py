"""Create a smaller encoder from a trained one (zoo/assembly/shrink.py).

``scripts/shrink.py SOURCE DIRECTORY depth=3 embedding_dim=128``
"""

import sys

import yaml

import zoo
from zoo.assembly.shrink import shrink
from zoo.errors import ZooError


def main(arguments: list[str]) -> int:
    """Load, shrink and save a model; return the exit status."""
    if len(arguments) < 3:
        print(f"usage: {__doc__}", file=sys.stderr)
        return 2
    source, directory, *settings = arguments
    try:
        changes = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in settings)}
        smaller = shrink(zoo.load(source), **changes)  # type: ignore[arg-type]
        zoo.save(smaller, directory)  # type: ignore[arg-type]
    except ZooError as error:
        print(f"shrink: {error}", file=sys.stderr)
        return 2
    print(f"written: {directory} ({sum(p.numel() for p in smaller.parameters()) / 1e6:.1f} M parameters)")  # type: ignore[attr-defined]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Registry: parts (classes registered by name), rows (names in ``conf/`` with their arguments), and checked construction.

May import: ``storage``. Nothing here needs torch. Add a kind of part: one line in ``parts.KINDS`` and ``parts.BASES``, and a base class in
``zoo.types``. Parts and rows of other installed packages come through ``plugins``; ``requirements`` records them in what is saved.
"""

from zoo.registry.parts import KINDS, find_part, label_of, name_of, part_names, register
from zoo.registry.rows import MODALITIES, TABLES, Row, find_row, list_models, rows

__all__ = [
    "KINDS",
    "MODALITIES",
    "TABLES",
    "Row",
    "find_part",
    "find_row",
    "label_of",
    "list_models",
    "name_of",
    "part_names",
    "register",
    "rows",
]

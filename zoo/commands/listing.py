"""``zoo list`` and ``zoo info``: names of models, and published weights with what is known of them. A list needs no torch."""

import json
from argparse import Namespace
from typing import Any

from zoo.errors import ZooError
from zoo.registry import find_row, list_models
from zoo.registry.plugins import OURS
from zoo.registry.pretrained import Pretrained, find_pretrained, is_tagged, list_pretrained

UNITS = ((10**9, "B"), (10**6, "M"))


def list_command(options: Namespace) -> int:
    """Print the names that match a pattern, one a line."""
    if options.pretrained:
        return _list_pretrained(options)
    found = [find_row(name) for name in list_models(options.pattern, options.kind, options.modality)]
    if options.json:
        for row in found:
            told = {"name": row.name, "kind": row.kind, "family": row.family, "modalities": row.modalities}
            print(json.dumps(told, ensure_ascii=False))
        return 0
    if not found:
        raise ZooError(f"no model matches {options.pattern!r}; list all with: zoo list")
    width = max(len(row.name) for row in found)
    for row in found:  # plain columns suit pipes, and rich would double the time of this command
        origin = "" if row.distribution == OURS else f"  ({row.distribution})"
        print(f"{row.name:<{width}}  {row.kind:<8}  {', '.join(row.modalities)}{origin}")
    return 0


def info_command(options: Namespace) -> int:
    """Print the costs of a model, or what is known of published weights."""
    if is_tagged(options.name):
        return _info_pretrained(options)
    from zoo.assembly.summary import summarize  # torch, which a list and a row do not need
    from zoo.commands.display import show_info

    show_info(options.name, summarize(options.name), as_json=options.json, verbose=options.verbose)
    return 0


def _list_pretrained(options: Namespace) -> int:
    """Print the rows that match, one a line."""
    found = [find_pretrained(name) for name in list_pretrained(options.pattern, options.kind, options.modality)]
    if options.json:
        for row in found:
            print(json.dumps(facts(row), ensure_ascii=False))
        return 0
    if not found:
        raise ZooError(f"no pretrained weights match {options.pattern!r}; list all with: zoo list --pretrained")
    widths = [max(len(cell) for cell in column) for column in zip(*map(_cells, found), strict=True)]
    for row in found:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(_cells(row), widths, strict=True)).rstrip())
    return 0


def _info_pretrained(options: Namespace) -> int:
    """Print all that is known of one row."""
    told = facts(find_pretrained(options.name))
    if options.json:
        print(json.dumps(told, ensure_ascii=False))
        return 0
    width = max(map(len, told))
    for key, value in told.items():
        print(f"{key:<{width}}  {f'{value:,}' if isinstance(value, int) else value}")
    return 0


def facts(row: Pretrained) -> dict[str, Any]:
    """Return what is known of a row, by name."""
    told: dict[str, Any] = {"name": row.full_name, "kind": row.kind, "modalities": ", ".join(row.modalities), "source": row.address}
    told |= {"licence": row.licence, "parameters": row.parameters}
    return told | ({"figure": f"{row.figure[0]} {row.figure[1]} ({row.figure[2]})"} if row.figure else {})


def _cells(row: Pretrained) -> tuple[str, ...]:
    unit, letter = next(((unit, letter) for unit, letter in UNITS if row.parameters >= unit), UNITS[-1])
    figure = f"{row.figure[0]} {row.figure[1]}" if row.figure else ""
    return row.full_name, row.kind, f"{row.parameters / unit:.1f}{letter}", row.licence, row.address, figure

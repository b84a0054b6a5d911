"""Collections of Iconify: the drawings of an ``icons.json`` as SVG.

Reference: the IconifyJSON format (iconify.design/docs/types/iconify-json.html): bodies of SVG with sizes, and aliases, which show
another icon, turned or mirrored.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIDE = 16  # where a collection states none


def read_icons(folder: Path) -> dict[str, str]:
    """The drawings of a collection by name, aliases too, hidden ones not; each a square SVG with the icon in its middle.

    Args:
        folder: with ``icons.json``.
    """
    content = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    sizes = {key: content[key] for key in ("left", "top", "width", "height") if key in content}
    found = {}
    for name in (*content["icons"], *content.get("aliases", {})):
        icon = _resolved(name, content)
        if not icon.get("hidden"):
            found[name] = svg_of({**sizes, **icon})
    return found


def svg_of(icon: Mapping[str, Any]) -> str:
    """One icon, with the keys of its collection where it has none of its own, as an SVG document."""
    width, height = icon.get("width", SIDE), icon.get("height", SIDE)
    side = max(width, height)
    left, top = icon.get("left", 0) - (side - width) / 2, icon.get("top", 0) - (side - height) / 2
    turns = [f"rotate({90 * icon['rotate']})"] if icon.get("rotate") else []
    flips = [f"scale({-1 if icon.get('hFlip') else 1} {-1 if icon.get('vFlip') else 1})"]
    middle = (left + side / 2, top + side / 2)
    turn = " ".join([f"translate({middle[0]} {middle[1]})", *turns, *flips, f"translate({-middle[0]} {-middle[1]})"])
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {side} {side}"><g transform="{turn}">{icon["body"]}</g></svg>'
    )


def _resolved(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """An icon with what its chain of aliases adds: mirrored twice is not mirrored, and turns add up."""
    if name in content["icons"]:
        return dict(content["icons"][name])
    alias = content["aliases"][name]
    icon = _resolved(alias["parent"], content)
    changed = {key: bool(icon.get(key)) != bool(alias.get(key)) for key in ("hFlip", "vFlip")}
    rotate = (icon.get("rotate", 0) + alias.get("rotate", 0)) % 4
    own = {key: value for key, value in alias.items() if key != "parent"}
    return {**icon, **own, **changed, "rotate": rotate}

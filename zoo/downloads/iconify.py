"""Reader of Iconify collections: the icons of an ``icons.json`` as SVG documents.

Reference: the IconifyJSON format (iconify.design/docs/types/iconify-json.html). It has SVG bodies with sizes, and aliases: names for
another icon, possibly rotated or mirrored.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIDE = 16  # default of the format for width and height


def read_icons(folder: Path) -> dict[str, str]:
    """Return the icons of a collection by name, with aliases, without hidden icons; each is a square SVG with the icon centred.

    Args:
        folder: folder that contains ``icons.json``.
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
    """Return one icon as a square SVG document.

    Args:
        icon: the icon's entry in ``icons.json``, completed by the sizes of its collection.
    """
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
    """Return an icon's entry with the changes of its chain of aliases: two mirrorings cancel each other, rotations add up."""
    if name in content["icons"]:
        return dict(content["icons"][name])
    alias = content["aliases"][name]
    icon = _resolved(alias["parent"], content)
    changed = {key: bool(icon.get(key)) != bool(alias.get(key)) for key in ("hFlip", "vFlip")}
    rotate = (icon.get("rotate", 0) + alias.get("rotate", 0)) % 4
    own = {key: value for key, value in alias.items() if key != "parent"}
    return {**icon, **own, **changed, "rotate": rotate}

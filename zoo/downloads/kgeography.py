"""Converter of the maps and flags of KGeography: pictures, and one table of regions with colours, sizes, places, capitals and flags.

Source: invent.kde.org/education/kgeography; each ``*.kgm`` is an XML file that gives the name of each region of a picture by its colour.
Regions that are not part of the quiz (seas, neighbours) are left out. Flags with blurred text are preferred, because text on a flag may
give away its name.
"""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    import numpy as np  # not imported at run time, because the list of assets does not need it

TABLE = "table.jsonl"
DARKEST = 100  # a colour of no region whose largest channel is at most this (of 255) is a border


def convert(source: Path, target: Path) -> None:
    """Write the folders ``maps`` and ``flags`` and ``table.jsonl`` with one row for each map.

    Args:
        source: folder that contains ``kgeography``.
    """
    folder = source / "kgeography"
    rows = [read_map(file, folder) for file in sorted(folder.glob("*.kgm"))]
    for name in ("maps", "flags"):
        (target / name).mkdir()
    for row in rows:
        shutil.copyfile(folder / Path(row["path"]).name, target / row["path"])
        for flag in {region["flag"] for region in row["regions"] if region["flag"]}:
            (target / flag).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / flag, target / flag)
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    (target / TABLE).write_text(text, encoding="utf-8")


def read_map(file: Path, folder: Path) -> dict[str, Any]:
    """Return the table row of a map.

    The row has ``path``, ``name``, ``area`` (see ``area_of``), ``division`` (the noun for a region, for example "province"), ``borders``
    (colours of border lines) and ``regions``. A region has ``name``, ``capital``, ``flag``, ``color`` (red, green, blue from 0 to 255),
    ``share`` of the picture's pixels, and the centre ``x`` and ``y``, from 0 at the left and at the top to 1.
    """
    root = ElementTree.parse(file).getroot()  # safe to parse: the package's SHA-256 is pinned
    picture, name = _text(root, "mapFile"), _text(root, "name")
    entries = root.findall("division")
    codes = _codes(folder / picture)
    regions = [_region(entry, codes, folder) for entry in entries if not _text(entry, "ignore")]
    borders = [_colour(entry) for entry in entries if _text(entry, "ignore") == "yes"]
    return {
        "path": f"maps/{picture}",
        "name": name,
        "area": area_of(name),
        "division": singular(_text(root, "divisionsName")),
        "borders": [colour for colour in borders if max(colour) <= DARKEST],
        "regions": regions,
    }


def area_of(name: str) -> str:
    """Return the area that a map shows: "Latvia Districts (Pre 2009)" -> "Latvia"; "Italy by Provinces" -> "Italy"."""
    plain = re.sub(r"\s*\([^)]*\)", "", name)
    return re.sub(r"\s+(?:by\s+)?(?:Districts|Provinces|Counties)$", "", plain).replace("-", " ")


def singular(words: str) -> str:
    """Return the singular of a noun for regions: "Provinces and Territories" -> "province or territory"."""
    parts = re.sub(r"\s*\([^)]*\)", "", words).lower().split(" and ")
    rules = (("ies", "y"), ("shes", "sh"), ("s", ""))
    return " or ".join(next((part.removesuffix(end) + new for end, new in rules if part.endswith(end)), part) for part in parts)


def _region(entry: ElementTree.Element, codes: "np.ndarray", folder: Path) -> dict[str, Any]:
    red, green, blue = colour = _colour(entry)
    rows, columns = (codes == red * 65536 + green * 256 + blue).nonzero()
    flag = _text(entry, "blurredflag") or _text(entry, "flag")
    height, width = codes.shape
    return {
        "name": _text(entry, "name"),
        "capital": _text(entry, "capital") or None,
        "flag": f"flags/{flag}" if flag and (folder / "flags" / flag).is_file() else None,
        "color": colour,
        "share": round(len(rows) / codes.size, 6),
        "x": round(float(columns.mean() + 0.5) / width, 4),
        "y": round(float(rows.mean() + 0.5) / height, 4),
    }


def _codes(path: Path) -> "np.ndarray":
    """Return the colours of a picture, each packed into one int32 (red * 65536 + green * 256 + blue) [height, width]."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    return pixels @ np.array([65536, 256, 1], dtype=np.int32)


def _colour(entry: ElementTree.Element) -> list[int]:
    return [int(_text(entry, f"color/{name}")) for name in ("red", "green", "blue")]


def _text(entry: ElementTree.Element, path: str) -> str:
    return " ".join((entry.findtext(path) or "").split())

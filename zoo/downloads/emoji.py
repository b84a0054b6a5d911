"""Converter of emoji drawings of six styles, with labels and tags from Emojibase, to PNGs and one table.

A concept is a code point (or a sequence) without the variation selector FE0F. Flags, keycaps, regional indicators, skin tones, hair
styles and the additions of Emoji 17 are left out; 1,623 concepts remain. A tenth of each of the eight groups is held out: the concepts
whose code points have the lowest BLAKE2b digests, so that the choice depends only on the code points.

Source: github.com/milesj/emojibase, ``data/en/data.json``; the collections are Iconify's.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from zoo.downloads.drawings import draw, write_table
from zoo.downloads.iconify import read_icons
from zoo.storage.progress import counted

SIDE = 128  # pixels
NAMED_STYLES = ("noto", "twemoji", "fluent-emoji-flat")  # styles whose chars.json has the code points of their icons
STYLES = (*NAMED_STYLES, "noto-v1", "emojione", "fxemoji")
GROUPS_LEFT_OUT = ("component", "flags")
NEWEST = 16  # newest version of Emoji that is used; few styles have the eight concepts of version 17
HELD_OUT = 0.1  # share of each group
PLAIN_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")  # to the quotes that people type in queries


def convert(source: Path, target: Path) -> None:
    """Write a folder of PNGs for each style, named by code points, and ``table.jsonl``.

    Args:
        source: folder that contains ``emojibase`` and a folder for each style.
    """
    concepts = read_concepts(source / "emojibase")
    write_table(target, draw_styles(source, target, concepts, styles=STYLES, named=NAMED_STYLES))


def draw_styles(
    source: Path, target: Path, concepts: Mapping[str, Mapping[str, Any]], *, styles: Sequence[str], named: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Draw the concepts of several styles into ``target``, and yield the table row of each drawing.

    Args:
        styles: styles to draw.
        named: styles whose ``chars.json`` has the code points of icon names, for styles without code points.
    """
    names = concept_names(source, concepts, named)
    held_out = held_out_concepts(concepts)
    for style in styles:
        for code, svg in counted(list(style_drawings(source / style, concepts, names)), f"draw {style}"):
            draw(svg, target / drawing_path(style, code), side=SIDE)
            yield drawing_row(style, code, concepts, held_out)


def drawing_path(style: str, code: str) -> str:
    """Return the path of a drawing relative to the data set's folder."""
    return f"{style}/{code.lower()}.png"


def drawing_row(style: str, code: str, concepts: Mapping[str, Mapping[str, Any]], held_out: Set[str]) -> dict[str, Any]:
    """Return the table row of a drawing."""
    facts = {"path": drawing_path(style, code), "style": style, **concepts[code]}
    return {**facts, "code_points": code, "held_out": code in held_out}


def bare(code: str) -> str:
    """Return code points in capitals without FE0F: ``2764-fe0f`` -> ``2764``."""
    return "-".join(point for point in code.upper().split("-") if point != "FE0F")


def read_concepts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return label, tags, group and subgroup of the concepts to draw, by code points."""
    groups = _read(folder / "groups.json")
    found = {}
    for entry in _read(folder / "data.json"):
        group = groups["groups"].get(str(entry.get("group")))  # regional indicators have none
        if group is None or group in GROUPS_LEFT_OUT or entry["label"].startswith("keycap") or entry["version"] > NEWEST:
            continue
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        label, *tags = (text.translate(PLAIN_QUOTES) for text in (entry["label"], *entry.get("tags", [])))
        found[bare(entry["hexcode"])] = {"label": label, "tags": tags, "group": group, "subgroup": subgroup}
    return found


def held_out_concepts(concepts: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the code points of the tenth of each group that is held out from training."""
    groups = defaultdict(list)
    for code, concept in concepts.items():
        groups[concept["group"]].append(code)
    ordered = (sorted(codes, key=lambda code: hashlib.blake2b(code.encode(), digest_size=8).digest()) for codes in groups.values())
    return {code for codes in ordered for code in codes[: round(HELD_OUT * len(codes))]}


def concept_names(source: Path, concepts: Mapping[str, Mapping[str, Any]], named: Sequence[str]) -> dict[str, str]:
    """Return code points by name, for styles without code points.

    The names are Emojibase's labels, the icon names and aliases of the styles with code points (aliases include older names), and the
    names of Unicode. A name of two concepts is left out, unless it is the label of one of them.
    """
    names: defaultdict[str, set[str]] = defaultdict(set)
    for style in named:
        codes, content = icon_codes(source / style), _read(source / style / "icons.json")
        for name in (*content["icons"], *content.get("aliases", {})):
            root = name
            while root not in codes and root in content.get("aliases", {}):
                root = content["aliases"][root]["parent"]
            names[flat(name)].add(codes.get(root, ""))
    for code, name in _read(source / "emojibase" / "unicode-names.json").items():
        names[flat(name)].add(bare(code))
    single = {name: next(iter(codes)) for name, codes in names.items() if len(codes) == 1}
    return {**single, **{flat(concept["label"]): code for code, concept in concepts.items()}}


def style_drawings(folder: Path, concepts: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield code points and SVG of each concept that a style draws, each concept once."""
    codes, done = icon_codes(folder), set()
    for name, svg in read_icons(folder).items():
        code = codes.get(name) if codes else names.get(flat(name))
        if code is not None and code in concepts and code not in done:
            done.add(code)
            yield code, svg


def icon_codes(folder: Path) -> dict[str, str]:
    """Return code points by icon name; empty if the style has none."""
    return {name: bare(code) for code, name in _read(folder / "chars.json").items()}


def flat(name: str) -> str:
    """Return a name in lower case with letters and digits only: ``right-facing fist`` -> ``rightfacingfist``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

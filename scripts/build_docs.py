"""Build the documentation site: the pages of ``assets/guide``, the contributor's guide and an API reference, as static HTML.

    python scripts/build_docs.py [FOLDER]        # default: build/docs; needs: zoo install docs

Strict: a broken link, a missing page or a docstring that cannot be read fails the build. Nothing is downloaded, neither by the build nor by
the pages. They also work without a server, all but the search: python -m http.server -d build/docs
"""

import argparse
import ast
import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from html import escape
from itertools import groupby, product
from pathlib import Path

os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")  # a notice of mkdocs-material about another program

from mkdocs.commands.build import build
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort

from zoo.commands.guide import CONTENTS, guide_directory, pages

ROOT = Path(__file__).parents[1]
OUTSIDE = {  # links of the guide to files beside it, and the pages that they become
    "../../.github/CONTRIBUTING.md": "contributing.md",
    "../clip_photos_minilm/README.md": "clip_photos_minilm.md",
}
REFERENCE = ("zoo", "zoo.errors", "zoo.types", "zoo.testing", "zoo.registry", "zoo.training.settings")  # the public contract
# Of a diagram, in pixels: width of a character in 13 px monospace, distance of rows, height of a box, length of an arrow, margin of a text.
CHARACTER, LINE, HEIGHT, GAP, PAD = 7.8, 34, 26, 34, 12
HANDLER = {
    "paths": [str(ROOT)],
    "options": {
        "docstring_style": "google",
        "members_order": "source",
        "separate_signature": True,
        "show_signature_annotations": True,
        "show_if_no_docstring": False,
        "show_root_heading": False,
        "show_root_toc_entry": False,
        "show_source": False,
        "show_submodules": False,
    },
}
STYLE = """
.flow { overflow: auto hidden; margin: 1em 0; padding-bottom: 0.5em }
.flow svg { display: block; font: 13px ui-monospace, monospace; color: var(--md-typeset-color) }
.flow rect { fill: var(--md-code-bg-color); stroke: var(--md-accent-fg-color) }
.flow text { fill: currentColor; text-anchor: middle; dominant-baseline: central }
.flow path { stroke: currentColor; fill: none }
.md-typeset table:not([class]) td code { word-break: normal }
"""


@dataclass(frozen=True)
class Box:
    """One box of a diagram: its text, and the first and the last of its rows."""

    text: str
    first: int
    last: int

    @property
    def middle(self) -> float:
        """Return the vertical position of its centre."""
        return (self.first + self.last) * LINE / 2 + HEIGHT / 2 + 1


def boxes_of(column: list[str]) -> list[Box]:
    """Return the boxes of a column: equal texts below each other are one box."""
    found = []
    for text, group in groupby(enumerate(column), key=lambda item: item[1]):
        numbers = [number for number, _ in group]
        found.append(Box(text, numbers[0], numbers[-1]))
    return found


def draw_flow(source: str, *_: object, **__: object) -> str:
    """Return the SVG of a ``flow`` block: each line is a chain of boxes, and equal boxes below each other in one column become one."""
    rows = [[cell.strip() for cell in line.split("->")] for line in source.strip().splitlines()]
    length = max(map(len, rows))
    columns = [boxes_of([row[i] if i < len(row) else "" for row in rows]) for i in range(length)]
    shapes, x, before = [], 1.0, []
    for column in columns:
        width = max(len(box.text) for box in column) * CHARACTER + 2 * PAD
        shapes += [_shape(box, x, width) for box in column if box.text]
        for start, end in product(before, column):
            if start.text and end.text and start.first <= end.last and end.first <= start.last:
                middle = min((start, end), key=lambda box: box.last - box.first).middle
                shapes.append(f'<path d="M{x - GAP + 4:.1f} {middle}h{GAP - 9}m-6 -4l6 4l-6 4"/>')
        x, before = x + width + GAP, column
    width, height = round(x - GAP + 1), len(rows) * LINE
    style = f"width: {width}px; height: {height}px; max-width: none"  # a narrow screen scrolls it sideways
    return f'<div class="flow"><svg role="img" aria-label="{escape(source.strip())}" style="{style}">{"".join(shapes)}</svg></div>'


def _shape(box: Box, x: float, width: float) -> str:
    height = (box.last - box.first) * LINE + HEIGHT
    return (
        f'<rect x="{x:.1f}" y="{box.first * LINE + 1}" width="{width:.1f}" height="{height}" rx="4"/>'
        f'<text x="{x + width / 2:.1f}" y="{box.middle}">{escape(box.text)}</text>'
    )


def public_names(module: str) -> list[str]:
    """Return the names that a module offers, in its order: ``__all__``, or else what it defines and imports from modules below it."""
    path = ROOT.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    names = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if name.isidentifier() and not name.startswith("_")]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{module}."):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            names.append(node.name)
    return [name for name in names if not name.isupper()]


def reference_page(module: str) -> str:
    """Return the page of a module: its docstring and its public names."""
    return f"# {module}\n\n::: {module}\n    options:\n      members: {json.dumps(public_names(module))}\n"


def write_pages(folder: Path) -> None:
    """Write the sources of the site: the guide with its pictures and its links to files outside turned into pages, and the reference."""
    for path in guide_directory().glob("*.md"):
        text = path.read_text(encoding="utf-8")
        for link, page in OUTSIDE.items():
            text = text.replace(f"]({link})", f"]({page})")
        (folder / path.name).write_text(text, encoding="utf-8")
    for picture in guide_directory().glob("*.png"):
        (folder / picture.name).write_bytes(picture.read_bytes())
    for link, page in OUTSIDE.items():
        (folder / page).write_text((guide_directory() / link).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "style.css").write_text(STYLE, encoding="utf-8")
    (folder / "reference").mkdir()
    for module in REFERENCE:
        (folder / "reference" / f"{module}.md").write_text(reference_page(module), encoding="utf-8")


def navigation() -> list[dict]:
    """Return the menu: the sections of the contents in reading order, then the reference."""
    sections: dict[str, list] = {}
    for page in pages():
        sections.setdefault(page.section, []).append({page.topic.replace("_", " "): f"{page.topic}.md"})
    more = [{page.removesuffix(".md").replace("_", " "): page} for page in OUTSIDE.values()]
    reference = [{module: f"reference/{module}.md"} for module in REFERENCE]
    return [{"Contents": CONTENTS}, *({name: entries} for name, entries in sections.items()), {"Python API": reference}, {"More": more}]


def settings(sources: Path, target: Path) -> MkDocsConfig:
    """Return the config of the site; no part of it is loaded from the network."""
    palettes = [("default", "(prefers-color-scheme: light)", "dark"), ("slate", "(prefers-color-scheme: dark)", "light")]
    toggles = {"dark": "material/weather-night", "light": "material/weather-sunny"}
    config = MkDocsConfig(config_file_path=str(sources.parent / "mkdocs.yml"))
    config.load_dict(
        {
            "site_name": "zoo",
            "docs_dir": str(sources),
            "site_dir": str(target),
            "use_directory_urls": False,  # links that work without a server
            "strict": True,
            "nav": navigation(),
            "extra_css": ["style.css"],
            "validation": {"links": {"anchors": "warn", "absolute_links": "warn", "unrecognized_links": "warn"}, "omitted_files": "warn"},
            "theme": {
                "name": "material",
                "font": False,
                "features": ["navigation.indexes", "navigation.footer", "toc.follow", "content.code.copy"],
                "palette": [
                    {"scheme": scheme, "media": media, "toggle": {"icon": toggles[other], "name": f"Switch to {other} mode"}}
                    for scheme, media, other in palettes
                ],
            },
            "plugins": ["search", {"mkdocstrings": {"handlers": {"python": HANDLER}}}],
            "markdown_extensions": [
                "tables",
                "sane_lists",
                "pymdownx.highlight",
                {"pymdownx.superfences": {"custom_fences": [{"name": "flow", "class": "flow", "format": draw_flow}]}},
                {"toc": {"permalink": True}},
            ],
        }
    )
    errors, warnings = config.validate()
    assert not errors and not warnings, (errors, warnings)
    return config


def main(target: Path) -> int:
    """Build the site into a folder, which is replaced; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "docs"
        sources.mkdir()
        write_pages(sources)
        try:
            build(settings(sources, target))
        except Abort as error:
            print(f"the site was not built: {error}", file=sys.stderr)
            return 1
    print(f"written: {target / 'index.html'}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "docs", help="it is replaced (default: build/docs)")
    sys.exit(main(parser.parse_args().folder.resolve()))

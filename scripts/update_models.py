"""Write ``assets/guide/models.md``: size and work of encoders and language models, systems, and published weights. Takes some minutes."""

from pathlib import Path

import zoo
from zoo.commands.listing import facts
from zoo.evaluation.results.card_families import KINDS, family_of
from zoo.registry import Row, rows
from zoo.registry.pretrained import find_pretrained, list_pretrained
from zoo.storage.files import write_text_atomically

PAGE = Path(__file__).parents[1] / "assets" / "guide" / "models.md"
TITLES = {"encoder": "Encoders", "language": "Language models"}
SMALL = "_nano"
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
INTRODUCTION = """# Models

All encoders, language models and systems of `zoo list`, without {left_out} `*_nano` forms, which exist for tests and first tries. `zoo info
NAME` shows one with its parts, its memory and the tests that verify it.
`python scripts/update_models.py` writes this page.

* **FLOPs** of an encoder are those of one forward pass for one item of the nominal size (2 per multiply-add), of a language model those of
  one token.
* **Tokens** are those that the encoder gives for this item.
* **Card** is the model's [verification card](cards.md): what tests have shown of its family.
* **Licences** of weights are in the last table. The code of zoo is Apache-2.0.
* Models of `transformers/...` and `timm/...` are not listed: those libraries have them.
"""
SYSTEMS = """## Systems

`zoo info NAME` counts the parameters of a system.

| name | encoders | language model | card |
|---|---|---|---|
"""
PUBLISHED = """## Published weights

Sources, licences and published figures were written down from memory and not measured by zoo; check them before you rely on them
([pretrained](pretrained.md)). Parameters are counted.

| name | parameters | licence | source | published figure |
|---|---|---|---|---|
"""


def with_unit(number: float) -> str:
    """Return a number in three digits with a unit: 151277313 -> 151 M."""
    unit, letter = next(((unit, letter) for unit, letter in UNITS if number >= unit), (1, ""))
    digits = f"{number / unit:.3g}" if number / unit < 999.5 else f"{number / unit:.0f}"
    return f"{digits} {letter}".strip()


def listed(kind: str) -> list[Row]:
    """Return the rows of a kind that the page lists."""
    return [row for _, row in sorted(rows(kind).items()) if not row.name.endswith(SMALL)]


def line(row: Row) -> str:
    """Return the line of a model, from its costs on the meta device."""
    summary = zoo.summarize(row.name)
    (flops,) = (value for name, value in summary.flops.items() if name != "total")
    tokens = ", ".join(f"{number:,}" for number in summary.tokens.values()) or "-"  # a language model makes as many as it reads
    return f"| `{row.name}` | {row.modality} | {summary.parameters:,} | {with_unit(flops)} | {tokens} | {card_of(row.name)} |"


def card_of(name: str) -> str:
    """Return a link to the verification card of a row's family."""
    family = family_of(name)
    return "-" if family is None else f"[{family}](cards.md#{family})"


def systems() -> str:
    """Return the table of systems and their parts."""
    lines = []
    for row in listed("system"):
        keywords = row.arguments
        encoders = ", ".join(f"`{name}`" for name in keywords["encoders"].values())
        language = keywords.get("language")
        lines.append(f"| `{row.name}` | {encoders} | {'-' if language is None else f'`{language}`'} | {card_of(row.name)} |")
    return SYSTEMS + "\n".join(lines) + "\n"


def published() -> str:
    """Return the table of published weights."""
    lines = []
    for told in (facts(find_pretrained(name)) for name in list_pretrained()):
        cells = (f"`{told['name']}`", f"{told['parameters']:,}", told["licence"], f"`{told['source']}`", told.get("figure", "-"))
        lines.append(f"| {' | '.join(cells)} |")
    return PUBLISHED + "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    left_out = sum(row.name.endswith(SMALL) for kind in KINDS for row in rows(kind).values())
    sections = [INTRODUCTION.format(left_out=left_out)]
    for kind, title in TITLES.items():
        table = "\n".join(line(row) for row in listed(kind))
        sections.append(f"## {title}\n\n| name | modality | parameters | FLOPs | tokens | card |\n|---|---|---|---|---|---|\n{table}\n")
    return "\n".join([*sections, systems(), published()])


if __name__ == "__main__":
    write_text_atomically(PAGE, page())

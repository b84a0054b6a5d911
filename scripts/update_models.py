"""Write ``assets/guide/models.md``: size and work of encoders and language models, systems, and published weights.

    python scripts/update_models.py             # count the models that are new or whose config changed
    python scripts/update_models.py --all       # count all again, after a change of their code; takes some minutes

The counts are stored in ``assets/models.json`` after each model, so that an interrupted run resumes. Models are built on the meta device.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zoo
from zoo.assembly.create import plain_system
from zoo.assembly.summary import count
from zoo.commands.listing import facts
from zoo.evaluation.results.card_families import KINDS, family_of
from zoo.registry import Row, rows
from zoo.registry.pretrained import find_pretrained, list_pretrained
from zoo.storage.files import write_text_atomically

PAGE = Path(__file__).parents[1] / "assets" / "guide" / "models.md"
COUNTS = Path(__file__).parents[1] / "assets" / "models.json"
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

Parameters are those of all parts. `zoo info NAME` shows them by part.

| name | parameters | encoders | language model | card |
|---|---|---|---|---|
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


def config_of(row: Row) -> str:
    """Return a hash of all that a row's model is built from, parts of a system included."""
    config = plain_system(row) if row.kind == "system" else {"name": row.family, **row.arguments}
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def counted(row: Row) -> dict[str, Any]:
    """Count a model on the meta device: parameters, and unless it is a system FLOPs and tokens."""
    if row.kind == "system":
        return {"parameters": count(zoo.create_model(row.name, device="meta"))}
    summary = zoo.summarize(row.name)
    (flops,) = (value for name, value in summary.flops.items() if name != "total")
    return {"parameters": summary.parameters, "flops": flops, "tokens": list(summary.tokens.values())}


def stored() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the stored counts by kind and name."""
    return json.loads(COUNTS.read_text(encoding="utf-8")) if COUNTS.is_file() else {}


def is_current(row: Row, counts: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return True if the stored counts are of the row's config."""
    return counts.get(row.name, {}).get("config") == config_of(row)


def update_counts(*, anew: bool) -> None:
    """Count the models whose counts are missing or of another config; with ``anew`` all models."""
    before, after = stored(), {}
    for kind in KINDS:
        after[kind] = {row.name: before.get(kind, {}).get(row.name, {}) for row in listed(kind)}
    for kind in KINDS:
        wanted = [row for row in listed(kind) if anew or not is_current(row, after[kind])]
        for number, row in enumerate(wanted, 1):
            print(f"{kind} {number} of {len(wanted)}: {row.name}", file=sys.stderr)
            after[kind][row.name] = {"config": config_of(row), **counted(row)}
            write_text_atomically(COUNTS, as_json(after))
    write_text_atomically(COUNTS, as_json(after))


def as_json(counts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the counts with one model per line, so that a change is easy to read."""
    kinds = []
    for kind, models in counts.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(facts)}" for name, facts in models.items())
        kinds.append(f" {json.dumps(kind)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def line(row: Row, counts: Mapping[str, Any]) -> str:
    """Return the line of an encoder or a language model."""
    tokens = ", ".join(f"{number:,}" for number in counts["tokens"]) or "-"  # a language model makes as many as it reads
    cells = (f"`{row.name}`", row.modality, f"{counts['parameters']:,}", with_unit(counts["flops"]), tokens, card_of(row.name))
    return f"| {' | '.join(map(str, cells))} |"


def card_of(name: str) -> str:
    """Return a link to the verification card of a row's family."""
    family = family_of(name)
    return "-" if family is None else f"[{family}](cards.md#{family})"


def systems(counts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of systems and their parts."""
    lines = []
    for row in listed("system"):
        encoders = ", ".join(f"`{name}`" for name in row.arguments["encoders"].values())
        language = row.arguments.get("language")
        size = f"{counts[row.name]['parameters']:,}"
        cells = (f"`{row.name}`", size, encoders, "-" if language is None else f"`{language}`", card_of(row.name))
        lines.append(f"| {' | '.join(cells)} |")
    return SYSTEMS + "\n".join(lines) + "\n"


def published() -> str:
    """Return the table of published weights."""
    lines = []
    for told in (facts(find_pretrained(name)) for name in list_pretrained()):
        cells = (f"`{told['name']}`", f"{told['parameters']:,}", told["licence"], f"`{told['source']}`", told.get("figure", "-"))
        lines.append(f"| {' | '.join(cells)} |")
    return PUBLISHED + "\n".join(lines) + "\n"


def page(counts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the whole page."""
    left_out = sum(row.name.endswith(SMALL) for kind in KINDS for row in rows(kind).values())
    sections = [INTRODUCTION.format(left_out=left_out)]
    for kind, title in TITLES.items():
        table = "\n".join(line(row, counts[kind][row.name]) for row in listed(kind))
        sections.append(f"## {title}\n\n| name | modality | parameters | FLOPs | tokens | card |\n|---|---|---|---|---|---|\n{table}\n")
    return "\n".join([*sections, systems(counts["system"]), published()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="count all models again")
    update_counts(anew=parser.parse_args().all)
    write_text_atomically(PAGE, page(stored()))

"""Tables of the files of other libraries and what becomes of each, for ``assets/guide/files.md``."""

from collections.abc import Mapping

from zoo.interop.base.files import ADAPTER_FILES, CHANGES, SHARED, Use
from zoo.interop.base.recognise import OWN, formats

START, END = "<!-- files: written by scripts/update_readme.py -->", "<!-- end of files -->"
HEADER = "| file | what becomes of it |\n|---|---|"
ORDER = ("used", "named", "harmless")


def files_tables() -> str:
    """Return a section with a table for each format of another library, and one for the files that every directory may hold."""
    sections = []
    for name, each in sorted(formats().items()):
        if name == OWN or not type(each).__module__.startswith("zoo."):
            continue
        title = (type(each).__doc__ or name).splitlines()[0]
        rows = _rows(each.files) if each.files else "Files of weights alone; a directory around them is not read."
        sections.append(f"### {name}\n\n{title}\n\n{rows}")
    refused = "\n".join(f"| `{pattern}` | refused: {why} |" for pattern, why in CHANGES.items() if pattern not in ADAPTER_FILES)
    sections.append(f"### Adapters of PEFT, in a directory of transformers or alone\n\n{_rows(ADAPTER_FILES)}\n{refused}")
    sections.append(f"### Beside every model\n\n{_rows(SHARED)}")
    return "\n\n".join(sections)


def with_tables(text: str) -> str:
    """Replace the text between the two marker comments by the current tables."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n\n{files_tables()}\n\n{END}{rest.partition(END)[2]}"


def _rows(table: Mapping[str, Use]) -> str:
    ordered = sorted(table.items(), key=lambda pair: ORDER.index(pair[1].word))
    rows = [f"| `{pattern}` | {use.word if not use.why else f'named in the log: {use.why}'} |" for pattern, use in ordered]
    return "\n".join([HEADER, *rows])

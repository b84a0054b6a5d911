"""``zoo guide``: read the pages of ``assets/guide`` on the terminal, offline."""

import json
import re
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ConfigError, name_choices
from zoo.storage.places import packaged_directory

CONTENTS = "index.md"  # the page that lists all others, in reading order
ENTRY = re.compile(r"\* \[[^\]]+\]\((?P<topic>\w+)\.md\): (?P<description>.+)")


@dataclass(frozen=True)
class Page:
    """One page of the guide.

    Attributes:
        topic: name of the page, and of its file without the suffix.
        section: heading under which the contents list it.
        description: one line about the page.
    """

    topic: str
    section: str
    description: str

    @property
    def file(self) -> Path:
        """Return the file of the page."""
        return guide_directory() / f"{self.topic}.md"


def guide_directory() -> Path:
    """Return the folder of the pages."""
    return packaged_directory("assets") / "guide"


def pages() -> list[Page]:
    """Return all pages in reading order, as ``index.md`` lists them."""
    found, section = [], ""
    for line in (guide_directory() / CONTENTS).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif entry := ENTRY.fullmatch(line):
            found.append(Page(entry["topic"], section, entry["description"]))
    return found


def guide_command(options: Namespace) -> int:
    """Print one page, or without a topic the list of topics.

    Raises:
        ConfigError: there is no such topic.
    """
    known = {page.topic: page for page in pages()}
    if options.topic is None:
        return _print_contents(list(known.values()), as_json=options.json)
    if options.topic not in known:
        raise ConfigError(f"topic: {options.topic!r} is unknown; {name_choices(options.topic, known, most=60)}")
    text = known[options.topic].file.read_text(encoding="utf-8")
    if options.json:
        print(json.dumps({"topic": options.topic, "text": text}, ensure_ascii=False))
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text, end="")
    return 0


def _print_contents(known: list[Page], *, as_json: bool) -> int:
    width, section = max(len(page.topic) for page in known) + 2, ""
    for page in known:
        if as_json:
            print(json.dumps({"topic": page.topic, "section": page.section, "description": page.description}, ensure_ascii=False))
            continue
        if page.section != section:
            print(page.section if not section else f"\n{page.section}")
            section = page.section
        print(f"  {page.topic:<{width}}{page.description}")
    return 0

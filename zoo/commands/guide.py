"""``zoo guide``: read the pages of ``assets/guide`` on the terminal, offline."""

import json
import sys
from argparse import Namespace
from pathlib import Path

from zoo.errors import ConfigError, name_choices
from zoo.storage.places import packaged_directory


def pages() -> dict[str, Path]:
    """Return topic -> file of every page."""
    return {path.stem: path for path in sorted((packaged_directory("assets") / "guide").glob("*.md"))}


def title(page: Path) -> str:
    """Return the heading of a page."""
    with page.open(encoding="utf-8") as lines:
        return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), page.stem)


def guide_command(options: Namespace) -> int:
    """Print one page, or without a topic the list of topics.

    Raises:
        ConfigError: there is no such topic.
    """
    known = pages()
    if options.topic is None:
        for topic, page in known.items():
            print(json.dumps({"topic": topic, "title": title(page)}) if options.json else f"{topic:<22}{title(page)}")
        return 0
    if options.topic not in known:
        raise ConfigError(f"topic: {options.topic!r} is unknown; {name_choices(options.topic, known, most=40)}")
    text = known[options.topic].read_text(encoding="utf-8")
    if options.json:
        print(json.dumps({"topic": options.topic, "text": text}, ensure_ascii=False))
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text, end="")
    return 0

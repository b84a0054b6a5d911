"""Update the tables of README.md and the guide: cards (of ``assets/cards/``), speed (of ``assets/speed.json``) and formats of files.

The lines "speed" of the cards are written first, from the same figures.
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks.speed_table import stored_rows, with_speed

from zoo.evaluation.results.cards import cards_table, write_lines
from zoo.interop.base.guide import with_tables
from zoo.storage.files import write_text_atomically

START, END = "<!-- cards: written by scripts/update_readme.py -->", "<!-- end of cards -->"


def with_table(text: str) -> str:
    """Replace the text between the two marker comments by the current short table."""
    return _between_markers(text, cards_table(short=True))


def with_cards(text: str) -> str:
    """Replace the text between the two marker comments by all cards."""
    return _between_markers(text, cards_table(short=False))


def _between_markers(text: str, table: str) -> str:
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{table}\n{END}{rest.partition(END)[2]}"


PAGES: dict[str, Callable[[str], str]] = {
    "README.md": with_table,
    "assets/guide/cards.md": with_cards,
    "assets/guide/files.md": with_tables,
    "assets/guide/speed.md": with_speed,
}


def update() -> None:
    """Write the lines "speed" of the cards and the tables of all pages again."""
    from benchmarks.peers import card_lines  # torch, which the tables do not need

    for family, line in card_lines(stored_rows()).items():
        write_lines(family, {"speed": line})
    root = Path(__file__).parents[1]
    for name, rewritten in PAGES.items():
        page = root / name
        write_text_atomically(page, rewritten(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    update()

"""Update the tables of ``assets/guide/cards.md``, from the cards in ``assets/cards/``, and of ``assets/guide/files.md``."""

from pathlib import Path

from zoo.evaluation.results.cards import cards_table
from zoo.interop.base.guide import with_tables
from zoo.storage.files import write_text_atomically

START, END = "<!-- cards: written by scripts/update_readme.py -->", "<!-- end of cards -->"


def with_table(text: str) -> str:
    """Replace the text between the two marker comments by the current table."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{cards_table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    guide = Path(__file__).parents[1] / "assets" / "guide"
    for page, update in ((guide / "cards.md", with_table), (guide / "files.md", with_tables)):
        write_text_atomically(page, update(page.read_text(encoding="utf-8")))

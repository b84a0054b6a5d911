"""Reports of ``zoo search``: CSV, JSON, or an HTML page with the images."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.evaluation.results.html_report import bar, card, check_output, write_page
from zoo.processors.media.cells import write_rows
from zoo.storage.files import write_whole


@dataclass(frozen=True)
class Hit:
    """Search result: the path of a file, or a text, and its cosine similarity to the query."""

    name: str
    score: float
    is_file: bool = True


def write_hits(hits: Sequence[Hit], output: Path, *, query: str, image: str | None, searched: str) -> None:
    """Write the results as CSV, JSON or HTML, chosen by the file suffix; the file is written atomically.

    Args:
        query: the text of the query, or the path of its image.
        image: path of the query image; None for a text query.
        searched: description of the index, for the HTML page.

    Raises:
        DataError: the suffix is not supported, or the file cannot be written.
    """
    check_output(output)
    suffix = output.suffix.lower()
    if suffix == ".csv":
        write_whole(output, lambda file: write_rows(file, [["item", "similarity"], *([h.name, f"{h.score:.6f}"] for h in hits)]))
    elif suffix == ".json":
        rows = [{"rank": rank, "item": hit.name, "similarity": hit.score, "query": query} for rank, hit in enumerate(hits, 1)]
        write_whole(output, lambda file: file.write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n"))
    else:
        query_card = [card(image, "<p>the query</p>")] if image is not None else []
        cards = [*query_card, *(_hit_card(rank, hit) for rank, hit in enumerate(hits, 1))]
        write_whole(output, lambda file: write_page(file, query, [f"{len(hits)} found in {searched}"], cards))


def _hit_card(rank: int, hit: Hit) -> str:
    row = bar(f"rank {rank}", f"{hit.score:.4f}", hit.score)
    if hit.is_file:
        return card(hit.name, row)
    return f'<article class="card"><div class="text"><h2>{html.escape(hit.name)}</h2>{row}</div></article>\n'

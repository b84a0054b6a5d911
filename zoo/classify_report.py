"""What ``zoo classify`` found, as a table, as data or as a page to look at."""

import base64
import csv
import html
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from zoo.data.image_file import open_image
from zoo.errors import DataError, name_choices

THUMBNAIL_PIXELS = 240  # twice the shown size, for dense screens


@dataclass(frozen=True)
class Prediction:
    """What was said of one image: the best labels first, or why there are none."""

    path: str
    labels: list[str]
    probabilities: list[float]
    error: str | None = None


def check_output(output: Path) -> None:
    """Refuse an output that could not be written; to be asked before the work, not after.

    Raises:
        DataError: an unknown suffix, a folder that is not there, or a folder of that name.
    """
    if output.suffix.lower() not in WRITERS:
        hint = name_choices(output.suffix, WRITERS)
        raise DataError(f"output: {output} ends in {output.suffix or 'no suffix'}; allowed are {', '.join(WRITERS)} ({hint})")
    if output.is_dir():
        raise DataError(f"output: {output} is a folder; name a file")
    if not output.parent.is_dir():
        raise DataError(f"output: the folder {output.parent} does not exist; make it first")


def write_predictions(predictions: Sequence[Prediction], output: Path, *, model: str, all_labels: Sequence[str]) -> None:
    """Write CSV, JSON or HTML as the suffix says; the file appears whole or not at all.

    Raises:
        DataError: the output cannot be written there.
    """
    output = Path(output)
    check_output(output)
    write = WRITERS[output.suffix.lower()]
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.unfinished")
    try:
        # A file name need not be UTF-8; what is not is written as an escape, which in JSON is the right one.
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            write(file, predictions, model, all_labels)
        os.replace(unfinished, output)
    except OSError as error:
        raise DataError(f"output: {output} cannot be written ({error.strerror}); check the folder's mode and the disk's space") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _write_csv(file: TextIO, predictions: Sequence[Prediction], model: str, all_labels: Sequence[str]) -> None:
    """One row per image: path, label_1, probability_1, ..., error."""
    ranks = max((len(prediction.labels) for prediction in predictions), default=0)
    writer = csv.writer(file)
    writer.writerow(["path", *(f"{what}_{rank + 1}" for rank in range(ranks) for what in ("label", "probability")), "error"])
    for found in predictions:
        pairs = [cell for pair in zip(found.labels, found.probabilities, strict=True) for cell in (pair[0], f"{pair[1]:.6f}")]
        writer.writerow([found.path, *pairs, *[""] * (2 * ranks - len(pairs)), found.error or ""])


def _write_json(file: TextIO, predictions: Sequence[Prediction], model: str, all_labels: Sequence[str]) -> None:
    """A list of objects, each with its model, so that lists of several runs can be joined."""
    json.dump([{**asdict(found), "model": model} for found in predictions], file, indent=2, ensure_ascii=False)
    file.write("\n")


def _write_html(file: TextIO, predictions: Sequence[Prediction], model: str, all_labels: Sequence[str]) -> None:
    """One page that needs nothing else."""
    bad = sum(found.error is not None for found in predictions)
    count = f"{len(predictions)} image{'' if len(predictions) == 1 else 's'}" + (f", {bad} not readable" if bad else "")
    labels = ", ".join(map(html.escape, all_labels))
    file.write(PAGE_START.format(style=STYLE, model=html.escape(model), count=count, labels=labels))
    file.writelines(_card(found) for found in predictions)
    file.write(PAGE_END)


def _card(found: Prediction) -> str:
    """One image with its bars, or with the reason why it has none."""
    picture, error = "", found.error
    if error is None:
        try:
            picture = f'<img src="{_thumbnail(found.path)}" alt="">'
        except DataError as reason:  # gone since it was classified; what was found still holds
            picture = f'<p class="error">{html.escape(str(reason))}</p>'
        body = "".join(_bar(*pair) for pair in zip(found.labels, found.probabilities, strict=True))
    else:
        body = f'<p class="error">{html.escape(error)}</p>'
    kind = "card" if error is None else "card bad"
    path = html.escape(found.path)
    name = html.escape(Path(found.path).name)
    return (
        f'<article class="{kind}"><div class="picture">{picture}</div>'
        f'<div class="said"><h2 title="{path}">{name}</h2>{body}</div></article>\n'
    )


def _bar(label: str, probability: float) -> str:
    percent = 100 * probability
    return (
        f'<div class="row"><span class="label">{html.escape(label)}</span><span class="number">{percent:.1f} %</span>'
        f'<div class="track"><div class="fill" style="width:{min(max(percent, 0), 100):.2f}%"></div></div></div>'
    )


def _thumbnail(path: str) -> str:
    image = open_image(path)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


STYLE = """
:root { color-scheme: light dark; --page: #f6f6f4; --card: #ffffff; --ink: #1d1f21; --soft: #6b7075; --line: #e2e2de;
  --track: #ecece8; --fill: #3a6ea5; --bad: #a33a2c; }
@media (prefers-color-scheme: dark) { :root { --page: #16181a; --card: #1f2225; --ink: #e6e6e3; --soft: #9aa0a6;
  --line: #30353a; --track: #2c3136; --fill: #6ea3d8; --bad: #e58a7b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; font-weight: 600; margin: 0; }
header p { margin: .2rem 0 0; color: var(--soft); overflow-wrap: anywhere; }
main { display: grid; gap: 1rem; margin-top: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); }
.card { display: flex; gap: 1rem; padding: 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.picture { flex: 0 0 120px; height: 120px; display: flex; align-items: center; justify-content: center; background: var(--track);
  border-radius: 4px; overflow: hidden; font-size: .75rem; }
.picture img { max-width: 100%; max-height: 100%; }
.said { flex: 1; min-width: 0; }
h2 { font-size: .95rem; font-weight: 600; margin: 0 0 .4rem; overflow-wrap: anywhere; }
.row { display: grid; grid-template-columns: 1fr auto; column-gap: .5rem; margin-bottom: .35rem; font-size: .85rem; }
.label { overflow-wrap: anywhere; }
.number { color: var(--soft); font-variant-numeric: tabular-nums; }
.track { grid-column: 1 / -1; height: 5px; border-radius: 3px; background: var(--track); }
.fill { height: 100%; border-radius: 3px; background: var(--fill); }
.row:not(:first-of-type) .fill { opacity: .55; }
.error { margin: 0; padding: .25rem; color: var(--bad); font-size: .85rem; overflow-wrap: anywhere; }
"""
PAGE_START = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{model}</title><style>{style}</style></head>
<body><header><h1>{model}</h1><p>{count}</p><p>Labels: {labels}</p></header><main>
"""
PAGE_END = "</main></body></html>\n"
WRITERS: dict[str, Callable[[TextIO, Sequence[Prediction], str, Sequence[str]], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".html": _write_html,
}

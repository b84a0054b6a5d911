"""Files that people look at: pages with pictures that need nothing else, and files that appear whole or not at all."""

import base64
import html
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from zoo.data.image_file import open_image
from zoo.errors import DataError, name_choices

THUMBNAIL_PIXELS = 240  # twice the shown size, for dense screens
SUFFIXES = (".csv", ".json", ".html")


def check_output(output: Path) -> None:
    """Refuse an output that could not be written; to be asked before the work, not after.

    Raises:
        DataError: an unknown suffix, a folder that is not there, or a folder of that name.
    """
    if output.suffix.lower() not in SUFFIXES:
        hint = name_choices(output.suffix, SUFFIXES)
        raise DataError(f"output: {output} ends in {output.suffix or 'no suffix'}; allowed are {', '.join(SUFFIXES)} ({hint})")
    if output.is_dir():
        raise DataError(f"output: {output} is a folder; name a file")
    if not output.parent.is_dir():
        raise DataError(f"output: the folder {output.parent} does not exist; make it first")


def write_whole(output: Path, write: Callable[[TextIO], object]) -> None:
    """Let ``write`` fill a text file that appears whole or not at all.

    Raises:
        DataError: the output cannot be written there.
    """
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.unfinished")
    try:
        # A file name need not be UTF-8; what is not is written as an escape, which in JSON is the right one.
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            write(file)
        os.replace(unfinished, output)
    except OSError as error:
        raise DataError(f"output: {output} cannot be written ({error.strerror}); check the folder's mode and the disk's space") from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_page(file: TextIO, title: str, lines: Iterable[str], cards: Iterable[str]) -> None:
    """One page that needs nothing else.

    Args:
        title: plain text, as the lines below it are.
        cards: HTML of ``card``.
    """
    said = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    file.write(PAGE_START.format(style=STYLE, title=html.escape(title), said=said))
    file.writelines(cards)
    file.write(PAGE_END)


def card(path: str, body: str, *, error: str | None = None) -> str:
    """A picture with what was said of it (HTML), or with the reason why there is nothing to say."""
    picture = ""
    if error is None:
        try:
            picture = f'<img src="{_thumbnail(path)}" alt="">'
        except DataError as reason:  # gone since it was looked at; what was found still holds
            picture = f'<p class="error">{html.escape(str(reason))}</p>'
    else:
        body = f'<p class="error">{html.escape(error)}</p>'
    kind = "card" if error is None else "card bad"
    return (
        f'<article class="{kind}"><div class="picture">{picture}</div>'
        f'<div class="said"><h2 title="{html.escape(path)}">{html.escape(Path(path).name)}</h2>{body}</div></article>\n'
    )


def bar(label: str, number: str, share: float) -> str:
    """A label, a number, and a bar that is filled to ``share`` from 0 to 1."""
    return (
        f'<div class="row"><span class="label">{html.escape(label)}</span><span class="number">{number}</span>'
        f'<div class="track"><div class="fill" style="width:{100 * min(max(share, 0), 1):.2f}%"></div></div></div>'
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
<title>{title}</title><style>{style}</style></head>
<body><header><h1>{title}</h1>{said}</header><main>
"""
PAGE_END = "</main></body></html>\n"

"""HTML reports in one file (images and sounds are embedded), checks of output paths, and plots of speech."""

import base64
import html
import io
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from PIL import Image

from zoo.errors import DataError, name_choices
from zoo.evaluation.results.plots import text_as_written
from zoo.processors.media.audio_file import checked_rate, to_mono
from zoo.processors.media.image_file import open_image
from zoo.processors.media.video_file import Frame
from zoo.storage.files import create_folder_of
from zoo.types import Speech

THUMBNAIL_PIXELS = 240  # twice the shown size, for dense screens
SMALL_PIXELS = 120  # smaller pictures are shown by whole factors larger
SUFFIXES = (".csv", ".json", ".html")
MOST_FILTERS = 24  # more buttons than one looks through
AUDIO_FORMS = {b"RIFF": "audio/wav", b"fLaC": "audio/flac", b"OggS": "audio/ogg"}  # by the first bytes of the file


def check_output(output: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Check the path of a report and create its folder; call this before the work starts, so that no result is lost.

    Args:
        output: the file to write.
        suffixes: ends of its name that say which kinds of files can be written.

    Raises:
        DataError: the suffix is unknown, the path is a folder, or its folder cannot be created.
    """
    if output.suffix.lower() not in suffixes:
        hint = name_choices(output.suffix, suffixes)
        raise DataError(f"output: {output} ends in {output.suffix or 'no suffix'}; allowed are {', '.join(suffixes)} ({hint})")
    if output.is_dir():
        raise DataError(f"output: {output} is a folder; name a file")
    create_folder_of(output)


def write_page(
    file: TextIO,
    title: str,
    lines: Iterable[str],
    cards: Iterable[str],
    *,
    summary: Sequence[tuple[str, str]] = (),
    filters: Sequence[tuple[str, str]] = (),
) -> None:
    """Write an HTML page with a title, a summary, filters, lines of text and cards; without scripts, and dark where the reader prefers it.

    Args:
        file: open for writing text.
        title: plain text.
        lines: plain text under the title, one paragraph each.
        cards: HTML, for example from ``card``.
        summary: name and value of the main figures, plain text; shown large.
        filters: plain text and CSS class; a button that shows only cards (or table cells with a class) of that class. At most 24 are kept.
    """
    filters = filters[:MOST_FILTERS]
    header = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    tiles = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in summary)
    header += (f"<dl>{tiles}</dl>" if tiles else "") + _filter_buttons(filters)
    rules = "".join(FILTER_RULE.format(number=number, kind=kind) for number, (_, kind) in enumerate(filters))
    file.write(PAGE_START.format(style=STYLE + rules, title=html.escape(title), header=header))
    file.writelines(cards)
    file.write(PAGE_END)


def _filter_buttons(filters: Sequence[tuple[str, str]]) -> str:
    """Return radio buttons, of which the first shows everything; empty without filters."""
    if not filters:
        return ""
    texts = [("all", "show_all"), *((text, f"show_{number}") for number, (text, _) in enumerate(filters))]
    return "".join(
        ["<fieldset><legend>show</legend>"]
        + [
            f'<label><input type="radio" name="show" id="{name}"{" checked" if name == "show_all" else ""}>{html.escape(text)}</label>'
            for text, name in texts
        ]
        + ["</fieldset>"]
    )


def card(path: str, body: str, *, error: str | None = None, kind: str = "") -> str:
    """Return the HTML card of an image file: a thumbnail and ``body`` (HTML), or the error message instead of both.

    Args:
        kind: further CSS class, for a filter of the page.
    """
    shown = [picture(path)] if error is None else []
    if error is not None:
        body = f'<p class="error">{html.escape(error)}</p>'
    head = f'<h2 title="{html.escape(path)}">{html.escape(Path(path).name)}</h2>'
    return media_card(shown, head + body, kind=f"card {kind}".strip() if error is None else "card bad")


def media_card(shown: Sequence[str], body: str, *, kind: str = "card") -> str:
    """Return the HTML card of images and sounds with a text beside them.

    Args:
        shown: HTML from ``picture`` and ``player``; may be empty.
        body: HTML of the text.
        kind: CSS classes: "card", "card bad", "card right" or "card wrong".
    """
    players = [one for one in shown if one.startswith("<audio")]
    pictures = "".join(f'<div class="picture">{one}</div>' for one in shown if one not in players)
    left = f'<div class="pictures">{pictures}</div>' if pictures else ""
    return f'<article class="{kind}">{left}<div class="text">{body}{"".join(players)}</div></article>\n'


def picture(raw: str | Path | bytes | Image.Image | np.ndarray | Frame) -> str:
    """Return an embedded thumbnail as HTML, or the error message if the image cannot be read."""
    try:
        return f'<img src="{_thumbnail(raw)}" alt="">'
    except DataError as reason:  # the file was removed after it was evaluated; the other results stay valid
        return f'<p class="error">{html.escape(str(reason))}</p>'


def picture_of(png: bytes, text: str) -> str:
    """Return a whole PNG file as HTML that takes the width of the page; ``text`` describes it."""
    content = base64.b64encode(png).decode("ascii")
    return f'<section class="wide"><img src="data:image/png;base64,{content}" alt="{html.escape(text)}"></section>\n'


def table_of(rows: Sequence[Sequence[Any]], kinds: Sequence[str] = ()) -> str:
    """Return a table as HTML; the first row holds the titles. Texts are escaped.

    Args:
        kinds: CSS class of each column for the filters of the page; "" stays always.
    """
    classes = [f' class="part {kind}"' if kind else "" for kind in kinds] or [""] * len(rows[0])
    head = "".join(f"<th{kind}>{html.escape(str(value))}</th>" for value, kind in zip(rows[0], classes, strict=True))
    cells = ((f"<td{kind}>{html.escape(_shown_cell(value))}</td>" for value, kind in zip(row, classes, strict=True)) for row in rows[1:])
    body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in cells)
    return f'<section class="wide"><table><tr>{head}</tr>\n{body}</table></section>\n'


def _shown_cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def player(raw: Any, sample_rate_hz: int) -> str:
    """Return an embedded audio player as HTML, or the error message if the file cannot be read.

    Args:
        raw: path, content of an audio file, samples, or a pair of samples and sample rate.
        sample_rate_hz: rate of samples that are given without one.
    """
    try:
        content = Path(raw).read_bytes() if isinstance(raw, str | Path) else raw if isinstance(raw, bytes) else wav_of(raw, sample_rate_hz)
    except OSError as error:
        return f'<p class="error">{html.escape(f"{raw}: {error.strerror}")}</p>'
    form = next((form for start, form in AUDIO_FORMS.items() if content.startswith(start)), "audio/mpeg")
    return f'<audio controls preload="none" src="data:{form};base64,{base64.b64encode(content).decode("ascii")}"></audio>'


def wav_of(raw: Any, sample_rate_hz: int) -> bytes:
    """Return a 16-bit mono WAV file of samples in [-1, 1], or of a pair of samples and sample rate."""
    samples, rate = raw if isinstance(raw, tuple) else (raw, sample_rate_hz)
    packed = io.BytesIO()
    with wave.open(packed, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(checked_rate(rate))
        file.writeframes((np.clip(to_mono(np.asarray(samples)), -1, 1) * 32767).astype("<i2").tobytes())
    return packed.getvalue()


def bar(label: str, number: str, share: float) -> str:
    """Return the HTML of a label, a number and a bar filled to ``share`` (0 to 1)."""
    return (
        f'<div class="row"><span class="label">{html.escape(label)}</span><span class="number">{number}</span>'
        f'<div class="track"><div class="fill" style="width:{100 * min(max(share, 0), 1):.2f}%"></div></div></div>'
    )


def _thumbnail(raw: Any) -> str:
    raw = raw.pixels.permute(1, 2, 0).numpy() if isinstance(raw, Frame) else raw
    image = Image.fromarray(raw).convert("RGB") if isinstance(raw, np.ndarray) else open_image(raw)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    if (times := SMALL_PIXELS // max(image.size)) > 1:  # images of 32 pixels would be too small to see
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


STYLE = """
:root { color-scheme: light dark; --page: #f6f6f4; --card: #ffffff; --ink: #1d1f21; --soft: #6b7075; --line: #e2e2de;
  --track: #ecece8; --fill: #3a6ea5; --bad: #a33a2c; --right: #3f7d4e; }
@media (prefers-color-scheme: dark) { :root { --page: #16181a; --card: #1f2225; --ink: #e6e6e3; --soft: #9aa0a6;
  --line: #30353a; --track: #2c3136; --fill: #6ea3d8; --bad: #e58a7b; --right: #7cc08d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; font-weight: 600; margin: 0; }
dl { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 0; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .45rem .8rem; max-width: 100%; }
dt { color: var(--soft); font-size: .78rem; overflow-wrap: anywhere; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
fieldset { display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0 0; padding: 0; border: 0; }
legend { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
fieldset label { border: 1px solid var(--line); border-radius: 999px; padding: .15rem .7rem; background: var(--card); font-size: .85rem;
  cursor: pointer; overflow-wrap: anywhere; }
fieldset label:has(:checked) { background: var(--fill); border-color: var(--fill); color: var(--card); }
fieldset label:has(:focus-visible) { outline: 2px solid var(--ink); outline-offset: 2px; }
fieldset input { position: absolute; opacity: 0; }
header p { margin: .2rem 0 0; color: var(--soft); overflow-wrap: anywhere; }
main { display: grid; gap: 1rem; margin-top: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
.card { display: flex; gap: 1rem; padding: 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.picture { flex: 0 0 120px; height: 120px; display: flex; align-items: center; justify-content: center; background: var(--track);
  border-radius: 4px; overflow: hidden; font-size: .75rem; }
.picture img { max-width: 100%; max-height: 100%; }
.pictures { display: flex; flex-direction: column; gap: .4rem; }
.wide { grid-column: 1 / -1; overflow-x: auto; }
.wide img { width: 100%; min-width: 40rem; background: #fff; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; min-width: 4.5rem; overflow-wrap: break-word; }
.right { border-left: 4px solid var(--right); }
.wrong { border-left: 4px solid var(--bad); }
.text p { margin: 0 0 .35rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.text audio { width: 100%; }
.name { color: var(--soft); font-size: .8rem; margin-right: .4rem; }
.text { flex: 1; min-width: 0; }
h2 { font-size: .95rem; font-weight: 600; margin: 0 0 .4rem; overflow-wrap: anywhere; }
.row { display: grid; grid-template-columns: 1fr auto; column-gap: .5rem; margin-bottom: .35rem; font-size: .85rem; }
.label { overflow-wrap: anywhere; }
.number { color: var(--soft); font-variant-numeric: tabular-nums; }
.track { grid-column: 1 / -1; height: 5px; border-radius: 3px; background: var(--track); }
.fill { height: 100%; border-radius: 3px; background: var(--fill); }
.row:not(:first-of-type) .fill { opacity: .55; }
.error { margin: 0; padding: .25rem; color: var(--bad); font-size: .85rem; overflow-wrap: anywhere; }
"""
FILTER_RULE = (  # hides the cards and the cells of tables that are not of the chosen class
    "body:has(#show_{number}:checked) .card:not(.{kind}), body:has(#show_{number}:checked) .part:not(.{kind}) {{ display: none; }}\n"
)
PAGE_START = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><header><h1>{title}</h1>{header}</header><main>
"""
PAGE_END = "</main></body></html>\n"


@text_as_written()
def draw_speech(speeches: list[Speech], file: Path | BinaryIO) -> None:
    """Draw alignment and mel spectrogram of each utterance, side by side, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.6 * len(speeches)), layout="constrained")
    axes = figure.subplots(len(speeches), 2, squeeze=False)
    for (left, right), speech in zip(axes, speeches, strict=True):
        left.imshow(speech.alignment.T.numpy(), aspect="auto", origin="lower", interpolation="nearest", vmin=0, vmax=1)
        left.set(xlabel="step", ylabel="character", title=f"{speech.text[:50]} ({speech.stop_reason})")
        right.imshow(speech.mels.numpy(), aspect="auto", origin="lower", interpolation="nearest")
        right.set(xlabel="frame", ylabel="mel", title="; ".join(speech.faults) or f"diagonality {speech.diagonality:.2f}")
    figure.savefig(file, dpi=100)

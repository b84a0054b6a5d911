"""Draw ``assets/overview.svg``: encoders and language models on the left, heads in the middle, systems on the right."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from zoo.registry import part_names, rows
from zoo.storage.files import write_text_atomically

WIDTH = 940
LINE, CARD_TOP, GAP = 19, 34, 14  # heights in pixels: a line of text, the title of a card, the space between cards
ENCODERS = {  # title -> part name of zoo/encoders or zoo/language -> text
    "image": {"vit": "Vision Transformer", "vig": "Vision GNN", "timm": "timm: any", "transformers": "transformers: any"},
    "audio": {"whisper": "Whisper", "transformers_audio": "transformers: any"},
    "text": {
        "text": "CLIP, SigLIP",
        "bert": "BERT, RoBERTa",
        "modernbert": "ModernBERT",
        "deberta": "DeBERTa",
        "t5": "T5",
        "cbhg": "Tacotron",
    },
    "language": {"causal_lm": "LLaMA, Mistral, GPT", "rwkv7": "RWKV-7", "magneto": "Magneto", "transformers": "transformers: any"},
}
SYSTEMS = (  # colour of the modalities, head, name of the system, what goes in and comes out, an example of its table
    ("image audio text", "clip", "CLIP, SigLIP, CLAP", "image, sound, text: vectors", "clip_vit_b32"),
    ("image", "classifier", "Classifier", "image: class", "classifier_vig_tiny"),
    ("image audio language", "llava", "LLaVA", "image, sound, text: answer", "llava_1_5_7b"),
    ("image audio language", "kosmos", "Kosmos", "documents: next token", "kosmos_2"),
    ("audio", "whisper", "Whisper", "speech: transcript", "whisper_tiny_en"),
    ("image audio text", "seq2seq", "Transformer, T5, BART", "text, image, sound: text", "t5_seq2seq_small"),
    ("text", "tacotron2", "Tacotron 1 and 2", "text: speech", "tacotron2"),
    ("text", "bert", "BERT, ELECTRA", "text: pre-training", "bert_pretraining_base"),
)
COLOURS = {"image": "#2f81f7", "audio": "#d9822b", "text": "#2da44e", "language": "#a371f7"}
# Grey tones and frames that are legible on white and on black; a browser in dark mode takes the second set.
STYLE = """
text { font: 14px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f; }
.head { font-weight: 600; font-size: 15px; } .note { fill: #57606a; font-size: 13px; }
.title { font-weight: 600; } .card { fill: #f6f8fa; stroke: #8c959f; }
.link { fill: none; stroke-opacity: .55; stroke-width: 1.6; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .note { fill: #9da7b3; } .card { fill: #161b22; stroke: #6e7681; } }
"""


def text(x: float, y: float, words: str, kind: str = "", **more: str) -> str:
    """Return a text element; its first letter stands at x, or its middle with ``anchor="middle"``."""
    anchor = f' text-anchor="{more["anchor"]}"' if "anchor" in more else ""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}"{anchor}>{escape(words)}</text>'


def card(x: float, y: float, width: float, height: float, colour: str = "") -> str:
    """Return a rounded frame; a colour draws a stripe on its left."""
    stripe = f'<rect x="{x:g}" y="{y + 8:g}" width="4" height="{height - 16:g}" fill="{colour}"/>' if colour else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" class="card"/>{stripe}'


def link(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    """Return a curve between two points that leaves and arrives horizontally."""
    (x, y), (to_x, to_y) = start, end
    middle = (x + to_x) / 2
    return f'<path class="link" stroke="{colour}" d="M{x:g},{y:g} C{middle:g},{y:g} {middle:g},{to_y:g} {to_x:g},{to_y:g}"/>'


def encoder_cards(x: float, width: float, top: float) -> tuple[list[str], dict[str, tuple[float, float]], float]:
    """Return the elements of the left column, the point where each card's links start, and the bottom of the column."""
    found, starts, y = [], {}, top
    for title, parts in ENCODERS.items():
        _check(parts, part_names("language" if title == "language" else "encoder"))
        lines = list(_pairs(list(parts.values())))
        height = CARD_TOP + LINE * len(lines) + 4
        name = "language model" if title == "language" else f"{title} encoder"
        found += [card(x, y, width, height, COLOURS[title]), text(x + 16, y + 23, name, "title")]
        found += [text(x + 16, y + CARD_TOP + 10 + LINE * i, line, "note") for i, line in enumerate(lines)]
        starts[title] = (x + width, y + height / 2)
        y += height + GAP
    return found, starts, y - GAP


def _pairs(names: Sequence[str]) -> list[str]:
    return [" · ".join(names[i : i + 2]) for i in range(0, len(names), 2)]


def _check(names: Sequence[str] | dict[str, str], known: Sequence[str]) -> None:
    unknown = set(names) - set(known)
    assert not unknown, f"the picture names {unknown}, which zoo does not have"


def draw() -> str:
    """Return the picture as SVG."""
    _check([head for _, head, *_ in SYSTEMS], part_names("head"))
    _check([example for *_, example in SYSTEMS], list(rows("system")))
    top, left, head_x, system_x = 52, 10, 370, 550
    elements, starts, bottom = encoder_cards(left, 270, top)
    step = (bottom - top + GAP) / len(SYSTEMS)
    links = []
    for i, (modalities, head, system, task, _) in enumerate(SYSTEMS):
        y, height = top + i * step, step - GAP
        elements += [card(head_x, y, 116, height), text(head_x + 58, y + height / 2 + 5, head, "title", anchor="middle")]
        elements += [card(system_x, y, 380, height), text(system_x + 14, y + height / 2 + 5, system, "title")]
        elements += [text(system_x + 366, y + height / 2 + 5, task, "note", anchor="end")]
        links += [link(starts[each], (head_x, y + height / 2), COLOURS[each]) for each in modalities.split()]
        links += [link((head_x + 116, y + height / 2), (system_x, y + height / 2), "#8c959f")]
    heads = [text(left, 30, "encoders", "head"), text(head_x, 30, "× heads", "head"), text(system_x, 30, "= systems", "head")]
    inner = "\n".join([*heads, *links, *elements])
    label = "Encoders of images, sound and text and language models are joined with heads to systems"
    size = f'width="{WIDTH}" height="{bottom + 12:g}" viewBox="0 0 {WIDTH} {bottom + 12:g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">\n<style>{STYLE}</style>\n{inner}\n</svg>\n'


if __name__ == "__main__":
    write_text_atomically(Path(__file__).parents[1] / "assets" / "overview.svg", draw())

"""Converter of the samples of Sonic Pi to one table of recordings, texts and labels, for zero-shot classification of sounds.

The beginning of a file name is the kind of sound; its label is that kind in words, and its text adds the rest of the name. All recordings
are in the split "test", because they are too few to train on.
"""

import json
import shutil
from pathlib import Path

TABLE = "table.jsonl"
KINDS = {  # beginning of the file name: label
    "ambi": "ambient sound",
    "bass": "bass",
    "bd": "bass drum",
    "drum": "drum kit",
    "elec": "electronic sound",
    "glitch": "glitch",
    "guit": "guitar",
    "loop": "drum loop",
    "mehackit": "robot or phone",
    "misc": "miscellaneous sound",
    "perc": "percussion",
    "sn": "snare drum",
    "tabla": "tabla",
    "vinyl": "vinyl record",
}


def convert(source: Path, target: Path) -> None:
    """Write the folder ``clips`` and ``table.jsonl``.

    Args:
        source: folder that contains ``samples``.
    """
    (target / "clips").mkdir(parents=True, exist_ok=True)
    rows = []
    for sound in sorted((source / "samples").glob("*.flac")):
        kind, _, rest = sound.stem.partition("_")
        if kind in KINDS:
            shutil.copy(sound, target / "clips" / sound.name)
            text = f"{KINDS[kind]}: {rest.replace('_', ' ')}" if rest else KINDS[kind]
            rows.append({"audio": f"clips/{sound.name}", "text": text, "label": KINDS[kind], "split": "test"})
    (target / TABLE).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")

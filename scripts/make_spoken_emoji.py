"""Make a data set of three sides: emoji drawings, their names as text, and their names spoken by espeak-ng.

    zoo fetch emoji
    python scripts/make_spoken_emoji.py ~/.cache/zoo/emoji data/spoken_emoji
    zoo train experiment=spoken_emoji data.source.path=data/spoken_emoji weights.encoders.audio=$(zoo fetch whisper_tiny_en)

Names of one word are taken. Training rows hold a recording and a text, but no image: the towers of image and text are already aligned, so
that recordings meet images through the text alone. The split "validation" has a voice and a drawing style that are not trained on; "test"
has names that are not trained on either. The voices are synthetic; espeak-ng comes with the extra ``speech``.
"""

import argparse
import json
import shutil
import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.processors.media.voices import find_voice

STYLE = "twemoji"  # held out, as in training the bundled model of images and texts
VOICES = ("en-us", "en-us+f2", "en-gb-scotland+m3")
HELD_OUT_VOICE = "en-gb-x-rp+f4"


def read_concepts(folder: Path) -> list[dict[str, Any]]:
    """Return the drawings of ``STYLE`` whose name is one word, one for each name."""
    lines = (folder / "table.jsonl").read_text(encoding="utf-8").splitlines()
    found = [row for row in map(json.loads, lines) if row["style"] == STYLE and row["label"].isalpha()]
    return list({row["label"]: row for row in found}.values())


def speak(folder: Path, voice: str, names: Sequence[str]) -> dict[str, str]:
    """Write a WAV file for each name; return the paths relative to ``folder``."""
    say, paths = find_voice("espeak", voice), {}
    (folder / "sounds" / voice).mkdir(parents=True, exist_ok=True)
    for name in names:
        paths[name] = f"sounds/{voice}/{name}.wav"
        with wave.open(str(folder / paths[name]), "wb") as file:
            file.setparams((1, 2, say.sample_rate_hz, 0, "NONE", ""))
            file.writeframes(say(name).tobytes())
    return paths


def rows_of(concepts: Sequence[Mapping[str, Any]], folder: Path, source: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of the table; images are copied and recordings written."""
    trained = [row["label"] for row in concepts if not row["held_out"]]
    for voice in VOICES:
        for name, path in speak(folder, voice, trained).items():
            yield {"audio": path, "text": name, "split": "train"}
    sounds = speak(folder, HELD_OUT_VOICE, [row["label"] for row in concepts])
    (folder / "images").mkdir(exist_ok=True)
    for row in concepts:
        image = f"images/{Path(row['path']).name}"
        shutil.copy(source / row["path"], folder / image)
        split = "test" if row["held_out"] else "validation"
        yield {"image": image, "audio": sounds[row["label"]], "text": row["label"], "split": split}


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji", type=Path, help="folder of zoo fetch emoji")
    parser.add_argument("output", type=Path, help="folder to write")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = list(rows_of(read_concepts(options.emoji), options.output, options.emoji))
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (options.output / "table.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(rows)} rows")


if __name__ == "__main__":
    main()

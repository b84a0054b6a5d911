"""Converter of the telephone prompts of Asterisk, spoken by Allison Smith, to WAV files and one table.

Of the different texts of four or more words, a tenth is for testing and a tenth for validation: the texts with the lowest BLAKE2b
digests, so that the split depends only on the texts. All prompts with the same text are in the same split.

Source: ``core-sounds-en.txt``, a line ``key: text`` for each prompt; notes on tones and silence are in brackets.
"""

import gzip
import hashlib
import json
import re
import wave
from collections.abc import Mapping
from pathlib import Path

from zoo.storage.progress import counted

TABLE = "table.jsonl"
RATE_HZ = 16000  # sample rate of G.722
FEWEST_WORDS = 4  # minimum length of a text in the test and validation splits
SHARE = 0.1  # share of these texts in the test split, and again in the validation split


def convert(source: Path, target: Path) -> None:
    """Write the folder ``clips`` and ``table.jsonl``.

    Args:
        source: folder that contains ``sounds`` and ``texts.txt.gz``.
    """
    lines = gzip.decompress((source / "texts.txt.gz").read_bytes()).decode("utf-8").splitlines()
    texts, rows = read_texts(lines), []
    splits = splits_of(set(texts.values()))
    for key, text in counted(sorted(texts.items()), "decode recordings"):
        sound, path = source / "sounds" / f"{key}.g722", f"clips/{key}.wav"
        if sound.is_file():
            samples = _decode(sound, target / path)
            rows.append({"path": path, "text": text, "split": splits[text], "seconds": round(samples / RATE_HZ, 3)})
    (target / TABLE).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def read_texts(lines: list[str]) -> dict[str, str]:
    """Return the spoken text of each prompt, without notes in brackets; prompts of tones or silence are left out."""
    found = {}
    for line in lines:
        key, colon, text = line.partition(":")
        text = " ".join(re.sub(r"[\[(<][^\])>]*[\])>]", " ", text).split())
        if colon and text and not line.startswith(";"):
            found[key.strip()] = text
    return found


def splits_of(texts: set[str]) -> Mapping[str, str]:
    """Return the split of each text: "train", "validation" or "test"."""
    candidates = sorted((text for text in texts if len(text.split()) >= FEWEST_WORDS), key=_digest)
    count = round(SHARE * len(candidates))
    held_out = dict.fromkeys(candidates[:count], "test") | dict.fromkeys(candidates[count : 2 * count], "validation")
    return dict.fromkeys(texts, "train") | held_out


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _decode(sound: Path, path: Path) -> int:
    """Decode a G.722 file into a 16-bit mono WAV file; return the number of samples."""
    import av  # optional dependency that the list of assets does not need

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(sound), format="g722") as container:
        samples = b"".join(frame.to_ndarray().tobytes() for frame in container.decode(audio=0))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples)
    return len(samples) // 2

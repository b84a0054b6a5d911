"""The telephone prompts of Asterisk, spoken by Allison Smith, as WAV and one table.

Of the prompts of four words and more, a tenth of the different texts is for testing and a tenth for validation: those with the lowest
BLAKE2b digests, so that which they are follows from the texts alone. A text that several prompts say is in one split.

Source: ``core-sounds-en.txt``, a line ``key: text`` for each prompt; what is no speech stands there in brackets.
"""

import gzip
import hashlib
import json
import re
import wave
from collections.abc import Mapping
from pathlib import Path

TABLE = "table.jsonl"
RATE_HZ = 16000  # of G.722
FEWEST_WORDS = 4  # of a text that is tested on
SHARE = 0.1  # of those texts, for test and for validation


def convert(source: Path, target: Path) -> None:
    """Write ``clips`` and ``table.jsonl``.

    Args:
        source: folder with ``sounds`` and ``texts.txt.gz``.
    """
    lines = gzip.decompress((source / "texts.txt.gz").read_bytes()).decode("utf-8").splitlines()
    texts, rows = read_texts(lines), []
    splits = splits_of(set(texts.values()))
    for key, text in sorted(texts.items()):
        sound, path = source / "sounds" / f"{key}.g722", f"clips/{key}.wav"
        if sound.is_file():
            samples = _decode(sound, target / path)
            rows.append({"path": path, "text": text, "split": splits[text], "seconds": round(samples / RATE_HZ, 3)})
    (target / TABLE).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def read_texts(lines: list[str]) -> dict[str, str]:
    """What is said, by prompt; prompts that are tones or silence are left out, and so are notes in brackets behind a text."""
    found = {}
    for line in lines:
        key, colon, text = line.partition(":")
        text = " ".join(re.sub(r"[\[(<][^\])>]*[\])>]", " ", text).split())
        if colon and text and not line.startswith(";"):
            found[key.strip()] = text
    return found


def splits_of(texts: set[str]) -> Mapping[str, str]:
    """The split of each text."""
    asked = sorted((text for text in texts if len(text.split()) >= FEWEST_WORDS), key=_digest)
    count = round(SHARE * len(asked))
    held_out = dict.fromkeys(asked[:count], "test") | dict.fromkeys(asked[count : 2 * count], "validation")
    return dict.fromkeys(texts, "train") | held_out


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _decode(sound: Path, path: Path) -> int:
    """Write a WAV of 16 bits; returns how many samples it has."""
    import av  # nothing else of the list of assets needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(sound), format="g722") as container:
        samples = b"".join(frame.to_ndarray().tobytes() for frame in container.decode(audio=0))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples)
    return len(samples) // 2

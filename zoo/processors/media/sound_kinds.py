"""Kinds of sound files: suffixes of their names, and the first bytes by which the content is known whatever the name is."""

import os
import stat
from pathlib import Path

AUDIO_SUFFIXES = (
    *(".3g2", ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".avi", ".caf", ".flac", ".flv", ".g722", ".m4a"),
    *(".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".oga", ".ogg", ".ogv", ".opus", ".rf64", ".snd"),
    *(".spx", ".tta", ".w64", ".wav", ".wave", ".weba", ".webm", ".wma", ".wmv", ".wv"),
)
HEAD = 16  # bytes that tell the kind
W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")  # Sony's identifier of "riff"
_BEGINNINGS = (  # Matroska and WebM, FLAC, Ogg, ASF, AU, CAF, AMR, W64, MP3 with a tag, WavPack, Monkey's Audio, True Audio, AC-3
    *(b"\x1aE\xdf\xa3", b"fLaC", b"OggS", b"0&\xb2u\x8ef\xcf\x11", b".snd", b"caff", b"#!AMR", W64),
    *(b"ID3", b"wvpk", b"MAC ", b"TTA1", b"\x0bw"),
)
_RIFF, _FORM = (b"RIFF", b"RIFX", b"RF64", b"BW64"), (b"WAVE", b"AVI ")
_PICTURES = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"crx ")  # brands of MP4 boxes that hold pictures
# MPEG layer 3 at a possible bit rate and sample rate, or AAC in ADTS: 11 or 12 bits of ones begin each frame.
_SYNC = {0xFB, 0xFA, 0xF3, 0xF2, 0xF1, 0xF9}


def is_sound(head: bytes) -> bool:
    """Return True if the first bytes of a file are those of a sound file or a container that may hold sound."""
    if head[:4] in _RIFF:
        return head[8:12] in _FORM
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    if head[4:8] == b"ftyp":
        return head[8:12] not in _PICTURES
    if len(head) > 2 and head[0] == 0xFF and head[1] in _SYNC:
        return head[2] >> 4 not in (0, 15) or head[1] in (0xF1, 0xF9)
    return head.startswith(_BEGINNINGS)


def looks_like_sound(path: Path) -> bool:
    """Return True for an ordinary file whose suffix or content is that of a sound file; nothing else is opened."""
    if path.name.lower().endswith(AUDIO_SUFFIXES):
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with path.open("rb") as file:
            return is_sound(file.read(HEAD))
    except OSError:
        return False

"""Classical speech synthesisers espeak-ng and flite, used to make synthetic corpora and to convert text to phonemes.

The espeak-ng library comes with the package ``espeakng-loader`` (extra ``speech``) or Debian's ``libespeak-ng1``. The flite library comes
with Debian's ``libflite1`` or with ``zoo fetch flite``. References: espeak-ng ``speak_lib.h``, flite ``cst_wave.h`` and ``flite.h``.
"""

import ctypes
import ctypes.util
import functools
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int16

from zoo.errors import ConfigError, DataError, name_choices
from zoo.storage.places import cache_directory

ENGINES = ("espeak", "flite")
FLITE_VOICES = {"slt": "cmu_us_slt", "rms": "cmu_us_rms", "awb": "cmu_us_awb", "kal16": "cmu_us_kal16", "kal": "cmu_us_kal"}
RETRIEVAL, UTF8, IPA = 1, 1, 0x02  # from speak_lib.h: AUDIO_OUTPUT_RETRIEVAL, espeakCHARS_UTF8, phonemes as IPA
_lock = threading.Lock()  # both libraries have global state and are not thread-safe


@runtime_checkable
class Voice(Protocol):
    """Callable that converts a text to 16-bit samples at ``sample_rate_hz``."""

    sample_rate_hz: int

    def __call__(self, text: str) -> Int16[np.ndarray, " samples"]: ...


def find_voice(engine: str, voice: str) -> Voice:
    """Return a voice by engine ("espeak" or "flite") and name.

    Raises:
        ConfigError: the engine or voice does not exist, or its library is not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine: there is no {engine!r}; {name_choices(engine, ENGINES)}")
    return Espeak(voice) if engine == "espeak" else Flite(voice)


class Espeak:
    """Voice of espeak-ng, for example "en-us"; a process has one active voice at a time.

    The library keeps state between texts, so repeating a text does not give exactly the same samples. For reproducible audio, use a new
    process and the same order of texts.

    Raises:
        ConfigError: espeak-ng is not installed or has no such voice.
    """

    def __init__(self, voice: str) -> None:
        self.library, self.sample_rate_hz = _espeak()
        with _lock:
            if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ConfigError(f"voice: espeak-ng has no {voice!r}; for example en-us, en-gb, en-gb-scotland")
        self.voice = voice

    def __call__(self, text: str) -> Int16[np.ndarray, " samples"]:
        """Synthesise a text."""
        chunks: list[np.ndarray] = []

        def keep(samples: Any, count: int, events: Any) -> int:
            if samples and count:
                chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())  # copied: the library reuses its buffer
            return 0

        callback = _CALLBACK(keep)
        content = text.encode()
        with _lock:
            self.library.espeak_SetVoiceByName(self.voice.encode())
            self.library.espeak_SetSynthCallback(callback)
            self.library.espeak_Synth(content, len(content) + 1, 0, 0, 0, UTF8, None, None)
            self.library.espeak_Synchronize()
        return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int16)


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@functools.cache
def _espeak() -> tuple[ctypes.CDLL, int]:
    """Load and initialise the espeak-ng library; return it and its sample rate in Hz."""
    data = None
    try:
        import espeakng_loader
    except ImportError as error:
        path = ctypes.util.find_library("espeak-ng")
        if path is None:
            raise ConfigError("espeak-ng is not installed: zoo install speech, or apt install libespeak-ng1 espeak-ng-data") from error
    else:
        path, data = str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path()).encode()
    library = ctypes.CDLL(path)
    rate = library.espeak_Initialize(RETRIEVAL, 0, data, 0)
    if rate <= 0:
        raise ConfigError(f"espeak-ng at {path} finds no data (status {rate}); install espeakng-loader or espeak-ng-data again")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    return library, rate


def phonemes(text: str, voice: str = "en-us") -> str:
    """Convert a text to the International Phonetic Alphabet, keeping its punctuation.

    Raises:
        ConfigError: espeak-ng is not installed or has no such voice.
        DataError: the text contains numbers and ``num2words`` is not installed.
    """
    from zoo.processors.media.read_aloud import read_aloud  # imported here, because the table of cleanings imports this module

    pieces = re.split(r"([!'(),.:;?-]+(?=\s|$))", read_aloud(text))
    return " ".join("".join(piece if number % 2 else " " + _ipa(piece, voice) for number, piece in enumerate(pieces)).split())


def _ipa(text: str, voice: str) -> str:
    if not any(map(str.isalnum, text)):
        return ""
    library, _ = _espeak()
    found = []
    with _lock:
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ConfigError(f"voice: espeak-ng has no {voice!r}; for example en-us, en-gb")
        rest = ctypes.pointer(ctypes.c_char_p(text.encode()))
        while rest.contents.value:  # each call converts one clause and advances the pointer
            found.append(library.espeak_TextToPhonemes(rest, UTF8, IPA).decode())
    return " ".join(found)


class _Wave(ctypes.Structure):
    """C struct ``cst_wave`` of flite."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class Flite:
    """Voice of flite: "slt" (a woman), "rms" (a man), "awb" (Scottish), "kal16" and "kal" (diphones).

    Repeating a text gives the same samples.

    Raises:
        ConfigError: flite is not installed or has no such voice.
    """

    def __init__(self, voice: str) -> None:
        if voice not in FLITE_VOICES:
            raise ConfigError(f"voice: flite has no {voice!r}; {name_choices(voice, FLITE_VOICES)}")
        self.library, self.voice = _flite(FLITE_VOICES[voice])
        self.sample_rate_hz = 8000 if voice == "kal" else 16000

    def __call__(self, text: str) -> Int16[np.ndarray, " samples"]:
        """Synthesise a text; letters outside ASCII are dropped.

        Raises:
            DataError: flite gives no audio for the text.
        """
        with _lock:
            wave = self.library.flite_text_to_wave(text.encode("ascii", "ignore"), self.voice)
            if not wave:
                raise DataError(f"flite cannot synthesise {text[:60]!r}; leave this text out, or use engine espeak")
            found = np.ctypeslib.as_array(wave.contents.samples, (wave.contents.num_samples,)).copy()
            self.sample_rate_hz = wave.contents.sample_rate
            self.library.delete_wave(wave)
        return found


@functools.cache
def _flite(voice: str) -> tuple[ctypes.CDLL, Any]:
    """Load the flite library and one of its voices; return both."""
    asound = cache_directory() / "flite" / "libasound.so.2"
    if asound.is_file() and ctypes.util.find_library("asound") is None:  # libflite is linked to it, although nothing is played here
        ctypes.CDLL(str(asound), mode=ctypes.RTLD_GLOBAL)
    core, *_ = [_load(name) for name in ("libflite", "libflite_usenglish", "libflite_cmulex")]
    core.flite_init()
    core.flite_text_to_wave.restype = ctypes.POINTER(_Wave)
    core.flite_text_to_wave.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    core.delete_wave.argtypes = [ctypes.POINTER(_Wave)]
    register = getattr(_load(f"libflite_{voice}"), f"register_{voice}")
    register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    return core, register(None)


def _load(name: str) -> ctypes.CDLL:
    """Load a shared library of flite, from ``zoo fetch flite`` or the system; later libraries use its symbols (RTLD_GLOBAL)."""
    for path in _places(name):
        try:
            return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    raise ConfigError(f"engine: flite is not installed (no library {name}); run apt install libflite1, or zoo fetch flite")


def _places(name: str) -> Iterator[Path | str]:
    folder = cache_directory() / "flite"
    if folder.is_dir():
        yield folder / f"{name}.so.1"
    yield f"{name}.so.1"

"""Codes of Whisper's languages for the words that people and other programs use: "German", "EN", "en-US", "zh-Hans", "<|de|>".

Reference: openai-whisper ``tokenizer.py``, ``TO_LANGUAGE_CODE``, which has the names and most of the other names below. BCP 47 (RFC 5646)
for tags with a script or a region, which are read up to the language.
"""

from zoo.processors.tokenizers.whisper_tokens import LANGUAGES

AUTO = "auto"  # the word for detection
OTHER_NAMES = {
    **{"burmese": "my", "valencian": "ca", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb", "pushto": "ps", "panjabi": "pa"},
    **{"moldavian": "ro", "moldovan": "ro", "sinhalese": "si", "castilian": "es", "mandarin": "zh", "farsi": "fa"},
}
# Codes that stand for a language of another code in Whisper: older codes of ISO 639, and parts of a macrolanguage.
OTHER_CODES = {
    **{"iw": "he", "in": "id", "ji": "yi", "jv": "jw", "nb": "no", "fil": "tl", "cmn": "zh", "mo": "ro", "sh": "sr"},
    **{"eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "ita": "it", "por": "pt", "nld": "nl", "rus": "ru"},
    **{"zho": "zh", "chi": "zh", "jpn": "ja", "kor": "ko", "ara": "ar", "hin": "hi", "tur": "tr", "pol": "pl", "ukr": "uk", "swe": "sv"},
}
_BY_NAME = {name: code for code, name in LANGUAGES.items()} | OTHER_NAMES


def language_code(word: str) -> str:
    """Return the code of a language that is given by code, tag, token or English name; an unknown word is returned in lower case.

    "auto" stays: it asks for detection.
    """
    plain = word.strip().removeprefix("<|").removesuffix("|>").strip().lower()
    if plain in LANGUAGES or plain == AUTO:
        return plain
    if plain in _BY_NAME:
        return _BY_NAME[plain]
    first, _, rest = plain.replace("_", "-").partition("-")
    if first in ("zh", "zho", "cmn") and rest.startswith("yue"):  # Cantonese, as an extended language of Chinese
        return "yue"
    # Only a short first part is the language of a tag: "haitian-creole" is a name.
    code = OTHER_CODES.get(first, first)
    return code if code in LANGUAGES else _BY_NAME.get(plain.replace("_", " ").replace("-", " "), plain)

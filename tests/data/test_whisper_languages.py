"""Words for languages, and the codes that Whisper has for them."""

import pytest
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

from zoo.language.transcription.settings import Settings
from zoo.processors.tokenizers.whisper_languages import language_code

WORDS = {
    **{"English": "en", "EN": "en", "en-US": "en", "en_GB": "en", "german": "de", "<|de|>": "de", "de-AT": "de", " French ": "fr"},
    **{"zh-Hans": "zh", "zh-TW": "zh", "zh-yue": "yue", "yue-HK": "yue", "cmn-Hans-CN": "zh", "pt-BR": "pt", "es-419": "es"},
    **{"iw": "he", "nb-NO": "no", "fil": "tl", "deu": "de", "Haitian Creole": "ht", "haitian-creole": "ht", "auto": "auto", "AUTO": "auto"},
    **{"klingon": "klingon", "xx": "xx", "": ""},
}


@pytest.mark.parametrize("word", WORDS)
def test_a_language_is_known_by_code_name_and_tag(word):
    assert language_code(word) == WORDS[word]


def test_all_words_of_openai_whisper_give_its_codes():
    assert {word: language_code(word) for word in TO_LANGUAGE_CODE} == TO_LANGUAGE_CODE
    assert all(language_code(code.upper()) == code for code in LANGUAGES)


def test_settings_hold_the_code():
    assert Settings(language="en-US").language == "en" and Settings(language="Auto").language == "auto"

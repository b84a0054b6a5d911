"""Settings of ``generation_config.json`` that zoo does not take over."""

from pathlib import Path

from zoo.interop.base.library_files import read_optional

FILE = "generation_config.json"
DEFAULTS = {  # transformers' values without effect on the text
    **{"do_sample": (False, None), "temperature": (1.0, None), "top_k": (50, None), "top_p": (1.0, None), "min_p": (None,)},
    **{"repetition_penalty": (1.0, None), "no_repeat_ngram_size": (0, None), "num_beams": (1, None), "length_penalty": (1.0, None)},
    **{"forced_bos_token_id": (None,), "forced_eos_token_id": (None,), "suppress_tokens": (None, []), "bad_words_ids": (None, [])},
}


def sampling_settings(directory: Path) -> tuple[str, ...]:
    """Return the sampling settings of a directory that ``generate`` does not use by default, in words."""
    settings = read_optional(directory / FILE)
    others = [f"{key} {settings[key]}" for key, usual in DEFAULTS.items() if key in settings and settings[key] not in usual]
    return (f"{FILE}: {', '.join(others)}; pass them to generate yourself",) if others else ()

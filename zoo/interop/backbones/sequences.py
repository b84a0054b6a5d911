"""Rows and descriptions of text and audio encoders of transformers, by the config, the tokenizer and the feature extractor of a directory.

As for images (``rows``), neither torch nor transformers is imported for a row.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError
from zoo.processors.tokenizers.library_tokenizers import TOKENIZER_CONFIG, TOKENIZER_FILE, read_tokenizer
from zoo.storage.hub import CONFIG, find_file, read_json_object

FAMILIES = {"text": "transformers_text", "audio": "transformers_audio"}
EXTRACTOR_FILE, POOLING_FILE, SENTENCE_FILE = "preprocessor_config.json", "1_Pooling/config.json", "sentence_bert_config.json"
# Keys that only configs of images, of audio, or of texts have; audio models may have patches and words too.
VISION_TOWER = "vision_config"
AUDIO = ("audio_config", "num_mel_bins", "feat_extract_norm", "feature_projection_input_dim")
IMAGES = ("image_size", "num_channels", "patch_size", "depths", "vision_config")
WORDS = ("vocab_size", "n_words")
POOLS = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}  # of sentence-transformers: ours
NEEDLESS = ("processor_class", "transformers_version")
NO_LIMIT = 1_000_000  # transformers writes a number near 1e30 as model_max_length if there is no limit


def modality_of(source: str, config: Mapping[str, Any]) -> str:
    """Return "text", "audio" or "image" for the config of a directory or hub id."""
    if VISION_TOWER not in config and any(key in config for key in AUDIO):
        return "audio"
    if any(key in config for key in IMAGES):
        return "image"
    if "sampling_rate" in _optional(source, EXTRACTOR_FILE):
        return "audio"
    return "text" if any(key in config for key in WORDS) else "image"


def text_arguments(source: str, config: Mapping[str, Any], names: list[str] | None) -> dict[str, Any]:
    """Return the keywords of ``transformers_text``.

    Args:
        config: the part of the config that is kept.
        names: of the weights beside it; None if they are unknown.

    Raises:
        ConfigError: the pooling of sentence-transformers has no counterpart here.
    """
    found: dict[str, Any] = {"config": dict(config)}
    pooling, sentence, words = (_optional(source, name) for name in (POOLING_FILE, SENTENCE_FILE, TOKENIZER_CONFIG))
    if pooling:
        from zoo.interop.text_encoders.bert import poolings  # imported here, because it imports torch

        chosen = poolings(pooling)
        if len(chosen) != 1 or chosen[0] not in POOLS:
            raise ConfigError(f"{source}/{POOLING_FILE}: pools by {', '.join(chosen) or 'nothing'}; allowed is one of: {', '.join(POOLS)}")
        found["pool"] = POOLS[chosen[0]]
    if names is not None and not any("pooler." in name for name in names):
        found["pooler"] = False
    find_file(source, TOKENIZER_FILE)  # of a hub id: fetched beside the config
    path = find_file(source, CONFIG)
    tokenizer = None if path is None else read_tokenizer(path.parent, model_type=str(config.get("model_type")))
    settings: dict[str, Any] = {"tokenizer": "given"} if tokenizer is None else dict(tokenizer.settings)
    longest = sentence.get("max_seq_length") or (words.get("model_max_length") if pooling else None)
    if isinstance(longest, int | float) and longest < NO_LIMIT:
        settings["max_length"] = int(longest)
    if sentence.get("do_lower_case"):
        settings["lowercase"] = True
    return found | {"preprocessing": settings}


def audio_arguments(source: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of ``transformers_audio``; the extractor goes along if the directory has one."""
    extractor = _optional(source, EXTRACTOR_FILE)
    kept = {key: value for key, value in extractor.items() if key not in NEEDLESS}
    return {"config": dict(config), **({"preprocessing": {"extractor": kept}} if "sampling_rate" in kept else {})}


def _optional(source: str, name: str) -> dict[str, Any]:
    path = find_file(source, name)
    return {} if path is None or not Path(path).is_file() else read_json_object(path)

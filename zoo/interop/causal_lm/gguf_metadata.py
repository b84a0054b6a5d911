"""Types of the metadata of a GGUF file, as far as it is read here."""

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from zoo.errors import WeightsError
from zoo.storage.checked import check

LARGEST = 2**31 - 1
Size = Annotated[int, Meta(ge=1, le=LARGEST)]
Id = Annotated[int, Meta(ge=0, le=LARGEST)]
Number = Annotated[float, Meta(ge=0, le=1e30)]
TOKENIZER = {
    **dict.fromkeys(("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template"), str),
    "tokenizer.ggml.tokens": Annotated[list[str], Meta(min_length=1)],
    "tokenizer.ggml.token_type": list[int],
    "tokenizer.ggml.scores": list[float],
    "tokenizer.ggml.merges": list[Annotated[str, Meta(pattern="^.[^ ]* .")]],
    **{f"tokenizer.ggml.{name}_token_id": Id for name in ("bos", "eos", "unknown", "padding")},
    **dict.fromkeys(("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix"), bool),
}
SIZES = {
    **dict.fromkeys(("vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length"), Size),
    **dict.fromkeys(("attention.head_count", "attention.head_count_kv", "rope.dimension_count"), Size),
    **dict.fromkeys(("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor"), Number),
    "expert_count": Id,
    "rope.scaling.type": str,
}


def checked_metadata(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the metadata of a file if its values have the types that the GGUF specification tells.

    Raises:
        WeightsError: with file, key, value and what is allowed.
    """
    kind = check(metadata.get("general.architecture"), str | None, f"{path}: general.architecture")
    for key, allowed in {**TOKENIZER, **{f"{kind}.{name}": allowed for name, allowed in SIZES.items()}}.items():
        if key in metadata:
            check(metadata[key], allowed, f"{path}: {key}")
    words, scores = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.scores")
    if words is None and f"{kind}.vocab_size" not in metadata:
        raise WeightsError(f"{path}: holds no tokenizer (tokenizer.ggml.tokens) and no {kind}.vocab_size; fetch or write the file again")
    if words is not None and scores is not None and len(scores) != len(words):
        raise WeightsError(f"{path}: has {len(words)} tokens and {len(scores)} scores (tokenizer.ggml); fetch or write the file again")
    return metadata

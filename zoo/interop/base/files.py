"""Files of a foreign directory: each is used, known to be harmless, or named to the user.

A format lists the files that its library writes, by pattern. ``SHARED`` lists those that any library or hub page may put beside them.
A file in neither list is unexplained: it is refused if it may change what the model computes, else the log names it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class Use:
    """Treatment of a file: "used", "harmless", or "named" with the reason for the log."""

    word: str
    why: str = ""


USED, HARMLESS = Use("used"), Use("harmless")


def named(why: str) -> Use:
    """Return the treatment of a file that is not used although it matters; the log gives the reason."""
    return Use("named", why)


ADAPTER_FILES: Mapping[str, Use] = {  # of PEFT; merged into the weights of a model of transformers
    "adapter_config.json": USED,
    "adapter_model.safetensors": USED,
    "adapter_model.bin": USED,
}
ADAPTERS = (*ADAPTER_FILES, "adapter_model.*", "non_lora_trainables.bin")
CHANGES: Mapping[str, str] = {  # files that change what the weights beside them compute
    **dict.fromkeys(ADAPTERS, "an adapter changes what the weights beside it compute"),
    "mm_projector.*": "a projector that belongs into the model",
}
SHARED: Mapping[str, Use] = {
    **dict.fromkeys(
        ("README*", "*.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "*.pdf", "*.png", "*.jpg", "*.svg", "*.gif"), HARMLESS
    ),
    # Copies of the weights for other programs.
    **dict.fromkeys(("*.msgpack", "*.h5", "rust_model.*", "*.onnx", "*.onnx_data", "*.tflite", "*.mlmodel", "*.llamafile"), HARMLESS),
    **dict.fromkeys(("onnx/*", "openvino/*", "coreml/*", "original/*", "gguf/*", "tf/*", "flax/*"), HARMLESS),
    **dict.fromkeys(("pytorch_model*.bin", "pytorch_model.bin.index.json", "model*.safetensors", "model.safetensors.index.json"), USED),
    **dict.fromkeys(("*.gguf", "*.index.*.json"), HARMLESS),  # the second: of shards in another precision
    # Mistral's and Meta's own form of the same model, and fairseq's of its words
    **dict.fromkeys(("consolidated*", "params.json", "tekken.json", "checklist.chk", "dict.txt"), HARMLESS),
    **dict.fromkeys(("*.py", "*.sh", "*.ipynb"), HARMLESS),  # code is never run; a config that names some (auto_map) is refused
    "generation_config_for_*.json": HARMLESS,  # of one task, which transformers reads only if it is named
    **dict.fromkeys(("FILES.json", "SOURCE.json", "METADATA"), HARMLESS),  # hashes, origin and licence of files of ``zoo fetch``
    # State and history of the training.
    **dict.fromkeys(("training_args.*", "trainer_state.json", "optimizer*", "scheduler*", "scaler*", "rng_state*", "*.log"), HARMLESS),
    **dict.fromkeys(("runs/*", "logs/*", "checkpoint-*", "global_step*", "events.out.*", "all_results.json", "*_results.json"), HARMLESS),
}
TRANSFORMERS: Mapping[str, Use] = {"config.json": USED}  # of every directory that transformers saved
TOKENIZERS: Mapping[str, Use] = {
    **dict.fromkeys(("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"), USED),
    **dict.fromkeys(("vocab.json", "merges.txt", "vocab.txt", "*.spm", "spiece.model", "sentencepiece.bpe.model"), USED),
    **dict.fromkeys(("spm.model", "tokenizer.model", "tokenizer.model.v*"), USED),
}
IMAGES: Mapping[str, Use] = dict.fromkeys(("preprocessor_config.json", "processor_config.json"), USED) | {
    "video_preprocessor_config.json": HARMLESS
}
CHAT: Mapping[str, Use] = {
    "generation_config.json": USED,
    "chat_template.jinja": USED,
    "chat_template.json": USED,
    "additional_chat_templates/*": named("only the template chat_template.jinja is used"),
}
GENERATION: Mapping[str, Use] = {"generation_config.json": HARMLESS}  # of models that generate nothing here
CLASSES: Mapping[str, Use] = {"label_mapping.json": HARMLESS, "labels.txt": HARMLESS}


def unexplained(directory: Path, table: Mapping[str, Use]) -> list[str]:
    """Return the files of a directory, relative to it, that no pattern of ``table`` or ``SHARED`` matches; hidden files are left out."""
    return sorted(name for name in _files(directory) if use_of(name, table) is None)


def named_files(directory: Path, table: Mapping[str, Use]) -> list[str]:
    """Return ``file: reason`` for each file that the table names."""
    uses = {name: use_of(name, table) for name in sorted(_files(directory))}
    return [f"{name}: {use.why}" for name, use in uses.items() if use is not None and use.word == "named"]


def use_of(name: str, table: Mapping[str, Use]) -> Use | None:
    """Return the treatment of a file, by the first pattern that matches its path; None if there is none.

    A file that changes what the weights compute has to be in the table by its own name; a wide pattern such as ``*.json`` is not enough.
    """
    if change_of(name):
        return table.get(name)
    for patterns in (table, SHARED):
        for pattern, use in patterns.items():
            if fnmatchcase(name, pattern):
                return use
    return None


def change_of(name: str) -> str:
    """Return the reason why a file changes what the weights compute; empty if it is not known to."""
    return next((why for pattern, why in CHANGES.items() if fnmatchcase(name, pattern)), "")


def _files(directory: Path) -> Iterator[str]:
    """Yield the files of a directory and of its folders, two levels deep."""
    for pattern in ("*", "*/*"):
        for path in directory.glob(pattern):
            name = path.relative_to(directory).as_posix()
            if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
                yield name

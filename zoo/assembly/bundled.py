"""Default models of the commands, and their captions from the README files in ``assets/``. Needs no torch."""

import sys

from zoo.registry.pretrained import find_pretrained
from zoo.storage.places import packaged_directory

DEFAULT_MODEL = "clip_photos_minilm"  # a folder of assets/
DEFAULT_VOICE = "tacotron2_numbers"
PHOTO_MODEL = "clip_vit_b32:openai"  # for photos: a row of conf/pretrained.yaml
PHOTO_FILES = (("config.json",), ("tokenizer.json",), ("model.safetensors", "pytorch_model.bin"))  # it needs one of each


def chosen_model(given: str | None, default: str = DEFAULT_MODEL) -> str:
    """Return the given model, or the default one, which is then named on standard error."""
    if given is not None:
        return given
    print(f"zoo: no --model given; using the bundled {caption_of(default)}", file=sys.stderr)
    return default


def chosen_photo_model(given: str | None) -> str:
    """Return the given model; else a real CLIP if the hub's cache holds it, or the default model, with a line on how to get the CLIP."""
    if given is not None:
        return given
    if in_hub_cache(PHOTO_MODEL):
        held = f"using {PHOTO_MODEL}, which the hub's cache holds (the bundled model: --model {DEFAULT_MODEL})"
        print(f"zoo: no --model given; {held}", file=sys.stderr)
        return PHOTO_MODEL
    model = chosen_model(None)
    row = find_pretrained(PHOTO_MODEL)
    size = f"{4 * row.parameters // 10**6} MB"
    print(f"zoo: for photos take a real CLIP: --model {PHOTO_MODEL} ({size}, fetched once from the hub)", file=sys.stderr)
    return model


def in_hub_cache(name: str) -> bool:
    """Return True if the weights of ``NAME:TAG`` are in the local cache of the hub; no network is used."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    row = find_pretrained(name)

    def held(file: str) -> bool:
        return isinstance(try_to_load_from_cache(row.source.removeprefix("hf://"), file, revision=row.revision or None), str)

    return all(any(map(held, files)) for files in PHOTO_FILES)


def caption_of(name: str) -> str:
    """Return the name of a model, and of a bundled one also the first line of its README: ``clip_vit_nano: knows ...``."""
    readme = packaged_directory("assets") / name / "README.md"
    if not readme.is_file():
        return name
    text = readme.read_text(encoding="utf-8")
    body = text.partition("---\n")[2].partition("---\n")[2] if text.startswith("---\n") else text  # skip the YAML header
    lines = (line.strip() for line in body.splitlines())
    return ": ".join([name, *[line for line in lines if line and not line.startswith(("#", "!", "|", "<"))][:1]])

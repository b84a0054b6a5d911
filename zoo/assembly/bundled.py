"""Default models of the commands, and their captions from the README files in ``assets/``. Needs no torch."""

import sys

from zoo.storage.places import packaged_directory

DEFAULT_MODEL = "clip_photos_minilm"  # a folder of assets/
DEFAULT_VOICE = "tacotron2_numbers"


def chosen_model(given: str | None, default: str = DEFAULT_MODEL) -> str:
    """Return the given model, or the default one, which is then named on standard error."""
    if given is not None:
        return given
    print(f"zoo: no --model given; using the bundled {caption_of(default)}", file=sys.stderr)
    return default


def caption_of(name: str) -> str:
    """Return the name of a model, and of a bundled one also the first line of its README: ``clip_vit_nano: knows ...``."""
    readme = packaged_directory("assets") / name / "README.md"
    if not readme.is_file():
        return name
    text = readme.read_text(encoding="utf-8")
    body = text.partition("---\n")[2].partition("---\n")[2] if text.startswith("---\n") else text  # skip the YAML header
    lines = (line.strip() for line in body.splitlines())
    return ": ".join([name, *[line for line in lines if line and not line.startswith(("#", "!", "|", "<"))][:1]])

"""The model that commands take when none is given, and what its own README says of it. Needs no torch."""

import sys

from zoo.storage.places import packaged_directory

DEFAULT_MODEL = "clip_dinov2_minilm"  # a folder of assets/
DEFAULT_VOICE = "tacotron2_numbers"


def chosen_model(given: str | None, default: str = DEFAULT_MODEL) -> str:
    """The model given, or the default one, which is then told on standard error."""
    if given is not None:
        return given
    print(f"zoo: no --model given; using the bundled {caption_of(default)}", file=sys.stderr)
    return default


def caption_of(name: str) -> str:
    """The name of a model and, of a bundled one, the first line of its README's text: ``clip_vit_nano: knows ...``."""
    readme = packaged_directory("assets") / name / "README.md"
    if not readme.is_file():
        return name
    text = readme.read_text(encoding="utf-8")
    body = text.partition("---\n")[2].partition("---\n")[2] if text.startswith("---\n") else text  # YAML before it is for machines
    lines = (line.strip() for line in body.splitlines())
    return ": ".join([name, *[line for line in lines if line and not line.startswith(("#", "!", "|", "<"))][:1]])

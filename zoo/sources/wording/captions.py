"""What sources share: class names into captions, and numbers that stand for equal meanings."""

import hashlib
from collections.abc import Sequence

import numpy as np

from zoo.errors import ConfigError

SLOT = "{}"


def stable_group(text: str) -> int:
    """A number from 0 to 2**63 - 1 that is the same for equal texts, on every machine and in every run."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def caption(templates: Sequence[str], name: str, generator: np.random.Generator | None = None) -> str:
    """Put a class name into a template: a random one with a generator, the first without."""
    chosen = 0 if generator is None else int(generator.integers(len(templates)))
    return templates[chosen].replace(SLOT, name)


def class_captions(templates: Sequence[str], names: Sequence[str]) -> list[str]:
    """Every class name in every template."""
    return [template.replace(SLOT, name) for name in names for template in templates]


def checked_templates(templates: Sequence[str]) -> list[str]:
    """Return the templates as a list.

    Raises:
        ConfigError: not a list of strings, an empty one, or one without its ``{}``.
    """
    if isinstance(templates, str):
        raise ConfigError(f"templates: {templates!r} is one string; give a list of strings, each with {SLOT} for the class name")
    wrong = [template for template in templates if not isinstance(template, str) or SLOT not in template]
    if wrong or not templates:
        value = f"{wrong[0]!r}" if wrong else "an empty list"
        raise ConfigError(f"templates: {value} is not allowed; give strings with {SLOT} where the class name goes, 'a photo of a {SLOT}.'")
    return list(templates)

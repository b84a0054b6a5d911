"""Captions from class names and templates, and stable hashes of texts."""

from collections.abc import Sequence

import numpy as np

from zoo.errors import ConfigError

SLOT = "{}"


def caption(templates: Sequence[str], name: str, generator: np.random.Generator | None = None) -> str:
    """Insert a class name into a template: a random template if a generator is given, else the first one."""
    chosen = 0 if generator is None else int(generator.integers(len(templates)))
    return templates[chosen].replace(SLOT, name)


def class_captions(templates: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return every class name inserted into every template."""
    return [template.replace(SLOT, name) for name in names for template in templates]


def checked_templates(templates: Sequence[str]) -> list[str]:
    """Return the templates as a list.

    Raises:
        ConfigError: the value is not a list of strings, the list is empty, or a template has no ``{}``.
    """
    if isinstance(templates, str):
        raise ConfigError(f"templates: {templates!r} is one string; give a list of strings, each with {SLOT} for the class name")
    wrong = [template for template in templates if not isinstance(template, str) or SLOT not in template]
    if wrong or not templates:
        value = f"{wrong[0]!r}" if wrong else "an empty list"
        raise ConfigError(f"templates: {value} is not allowed; give strings with {SLOT} where the class name goes, 'a photo of a {SLOT}.'")
    return list(templates)

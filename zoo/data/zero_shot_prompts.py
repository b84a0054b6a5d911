"""Prompts of zero-shot classifiers: named template sets, and label files with one or several prompts per class.

The sets are the files ``assets/templates/NAME.txt``, one template per line. ``imagenet`` (80), ``imagenet_7`` and ``cifar`` (18) come from
OpenAI's CLIP (notebooks/Prompt_Engineering_for_ImageNet.ipynb and data/prompts.md, MIT licence); ``simple`` is its single prompt.
This module does not need torch.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import DataError, name_choices
from zoo.storage.outside import refuse_special
from zoo.storage.places import packaged_directory

SLOT = "{}"  # placeholder for the label
DEFAULT_TEMPLATES = ("a photo of a {}.",)
FORMAT = 'one label per line, or .json: a list of labels, or {"label": ["prompt", ...]}, or {"label": {"names": [...], "prompts": [...]}}'


@dataclass(frozen=True)
class Label:
    """Class label with its names and prompts.

    Attributes:
        label: name of the class.
        names: names that fill every template; ``("sneaker", "trainer")`` and two templates make four prompts.
        prompts: complete prompts, used without templates; ``{}`` stands for the label.
    """

    label: str
    names: tuple[str, ...]
    prompts: tuple[str, ...] = ()

    def fill(self, templates: Sequence[str]) -> list[str]:
        """Return all prompts of this class: templates filled with its names, then its own prompts."""
        filled = [template.replace(SLOT, name) for name in self.names for template in templates]
        return filled + [prompt.replace(SLOT, self.label) for prompt in self.prompts]


def plain_labels(labels: Iterable[str], key: str = "labels", *, repeated: bool = False) -> list[Label]:
    """Make labels whose only name is the label itself.

    Args:
        labels: names of the classes.
        key: option or config key for error messages.
        repeated: True allows a label twice, for classes that are told apart by their numbers.

    Raises:
        DataError: there are no labels, or one is empty or given twice.
    """
    return _checked([Label(label, (label,)) for label in labels], key, repeated=repeated)


def fill_templates(labels: Sequence[Label], templates: Sequence[str]) -> list[list[str]]:
    """Return one list of prompts per label."""
    return [label.fill(templates) for label in labels]


def in_order(labels: Sequence[Label], names: Sequence[str], key: str = "labels") -> list[Label]:
    """Return the labels of the classes ``names``, in this order.

    Raises:
        DataError: a class has no label.
    """
    known = {label.label: label for label in labels}
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(f"{key}: class {missing[0]!r} is not among the {len(known)} labels of the file; {name_choices(missing[0], known)}")
    return [known[name] for name in names]


def template_sets() -> list[str]:
    """Return the names of the template sets that come with zoo."""
    return sorted(path.stem for path in (packaged_directory("assets") / "templates").glob("*.txt"))


def read_templates(wanted: str | Path | Sequence[str], key: str = "templates") -> list[str]:
    """Return templates from the name of a set, a file with one per line, a single template, or a list of templates.

    Args:
        wanted: the name, file, template or list.
        key: option or config key for error messages.

    Raises:
        DataError: the set or file does not exist, or a template has no ``{}``.
    """
    if not isinstance(wanted, str | Path):
        return _checked_templates(list(wanted), f"{key}: ")
    text = str(wanted)
    if text in template_sets():
        return read_lines(packaged_directory("assets") / "templates" / f"{text}.txt", key)
    if SLOT in text and not Path(text).exists():
        return [text]
    if not Path(text).exists() and Path(text).name == text:
        raise DataError(f"{key}: there is no template set and no file {text!r}; {name_choices(text, template_sets())}")
    return _checked_templates(read_lines(Path(text), key), f"{key}: {text}: ")


def read_labels(path: str | Path, key: str = "labels") -> list[Label]:
    """Read a label file: text with one label per line, or JSON with several prompts or names per class.

    Raises:
        DataError: the file cannot be read or has another format, or a label is empty or given twice.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        return plain_labels(read_lines(path, key), f"{key}: {path}")
    where = f"{key}: {path}"
    try:
        found = json.loads(_read_text(path, key), object_pairs_hook=lambda pairs: _unique(pairs, where))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); give {FORMAT}") from error
    if isinstance(found, Mapping):
        return _checked([_worded(label, value, where) for label, value in found.items()], where)
    if isinstance(found, list) and all(isinstance(label, str) for label in found):
        return plain_labels(found, where)
    raise DataError(f"{where} holds {_shown(found)}; give {FORMAT}")


def read_lines(path: Path, key: str) -> list[str]:
    """Read the lines of a UTF-8 text file, stripped of white space; empty lines at the end are dropped.

    Raises:
        DataError: the file cannot be read.
    """
    return [line.strip() for line in _read_text(path, key).rstrip().split("\n")]


def _read_text(path: Path, key: str) -> str:
    refuse_special(path, lambda message: DataError(f"{key}: {message}"))
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key}: {path} cannot be read ({error}); give a UTF-8 text file with one entry per line") from error


def _worded(label: str, value: Any, where: str) -> Label:
    """Parse the JSON value of one class: null, a mapping of names and prompts, or one or several prompts."""
    if value is None:
        return Label(label, (label,))
    if isinstance(value, Mapping):
        unknown = sorted(set(value) - {"names", "prompts"})
        if unknown:
            raise DataError(f"{where}: label {label!r} has {unknown[0]!r}; allowed are 'names' and 'prompts'")
        return Label(label, _texts(value.get("names", []), label, where), _texts(value.get("prompts", []), label, where))
    return Label(label, (), _texts(value, label, where))


def _texts(value: Any, label: str, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{where}: label {label!r} has {_shown(value)}, but a list of texts is expected; give {FORMAT}")
    return tuple(text.strip() for text in texts)


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise DataError(f"{where}: {twice[0]!r} is given more than once; give each label once")
    return dict(pairs)


def _checked(labels: list[Label], where: str, *, repeated: bool = False) -> list[Label]:
    if not labels or all(not label.label.strip() for label in labels):
        raise DataError(f"{where}: there are no labels; give at least one")
    empty = [i for i, label in enumerate(labels, 1) if not label.label.strip()]
    if empty:
        raise DataError(f"{where}: label {empty[0]} of {len(labels)} is empty; remove it or write its name")
    twice = [name for name, count in Counter(label.label for label in labels).items() if count > 1]
    if twice and not repeated:
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise DataError(f"{where}: {', '.join(map(repr, twice[:3]))}{more} given more than once; give each label once")
    promptless = [label.label for label in labels if not label.names and not label.prompts]
    if promptless:
        raise DataError(f"{where}: label {promptless[0]!r} has no prompts and no names; give at least one, or null for the label itself")
    return labels


def _checked_templates(templates: list[str], where: str) -> list[str]:
    if not templates:
        raise DataError(f"{where}there are no templates; give at least one, for example 'a photo of a {SLOT}.'")
    wrong = [(i, template) for i, template in enumerate(templates, 1) if not isinstance(template, str) or SLOT not in template]
    if wrong:
        raise DataError(f"{where}template {wrong[0][0]} of {len(templates)}, {wrong[0][1]!r}, has no {SLOT}, the placeholder for the label")
    return templates


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {json.dumps(value, ensure_ascii=False)[:60]}"

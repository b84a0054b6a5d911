"""Published weights by name and tag (``clip_vit_b32:openai``), read from ``conf/pretrained.yaml`` without torch."""

import fnmatch
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, name_choices
from zoo.registry.rows import TABLES, own_rows
from zoo.storage.files import read_yaml
from zoo.storage.places import packaged_directory

FILE = "pretrained.yaml"
TAGGED = re.compile(r"(?P<name>[A-Za-z0-9_.-]+):(?P<tag>[A-Za-z0-9_.-]+)")
SCHEMES = ("local-dir:", "hf-hub:")  # of open_clip, which look like a name before a tag
KINDS = ("encoders", "encoder", "language")  # first keys of ``build``: a system, an encoder, a language model


@dataclass(frozen=True)
class Pretrained:
    """One row: published weights, and what is known of them.

    Attributes:
        name: of a model, mostly a row of ``zoo list``.
        source: where ``zoo.load`` reads the weights: ``hf://OWNER/NAME`` or ``timm://NAME``.
        licence: of the weights.
        parameters: number of parameters of the model that ``zoo.load`` gives, counted in the reference library.
        figure: what was measured, the published value, and where it was published; empty if none is given here.
        revision: branch, tag or commit of the hub; empty for the newest.
        build: the model's config, if ``name`` is no row of ``zoo list``: ``encoders`` and ``head``, ``encoder``, or ``language``.
    """

    name: str
    tag: str
    source: str
    licence: str
    parameters: int
    figure: tuple[str, float, str] | tuple[()] = ()
    revision: str = ""
    build: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """Name and tag, as commands take them."""
        return f"{self.name}:{self.tag}"

    @property
    def address(self) -> str:
        """Source with its revision."""
        return f"{self.source}@{self.revision}" if self.revision else self.source

    @property
    def kind(self) -> str:
        """Kind of the model: "encoder", "language" or "system"."""
        if self.build:
            return {"encoders": "system"}.get(found := next(key for key in KINDS if key in self.build), found)
        return next(kind for kind in TABLES if self.name in own_rows(kind))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the model takes."""
        if not self.build:
            return own_rows(self.kind)[self.name].modalities
        if self.kind == "system":
            return tuple(self.build["encoders"])
        return ("image",) if self.kind == "encoder" else ("text",)


@functools.cache
def pretrained_rows() -> dict[str, Pretrained]:
    """Return all rows by name and tag, in the order of the table."""
    table = read_yaml(packaged_directory("conf") / FILE)
    found = {}
    for name, tags in table["models"].items():
        for tag, row in tags.items():
            figure = tuple(row.get("figure", ()))
            if figure:
                figure = (figure[0], figure[1], table["published"][figure[2]])
            made = Pretrained(name, tag, **{**row, "figure": figure})
            found[made.full_name] = made
    return found


def is_tagged(source: str | Path) -> bool:
    """Return True for ``NAME:TAG``, unless it is an existing path."""
    text = str(source)
    return TAGGED.fullmatch(text) is not None and not text.startswith(SCHEMES) and not Path(source).exists()


def find_pretrained(name: str) -> Pretrained:
    """Return the row of ``NAME:TAG``.

    Raises:
        ConfigError: there is no such name or tag; the message lists near matches.
    """
    rows = pretrained_rows()
    if name in rows:
        return rows[name]
    model, _, tag = name.partition(":")
    tags = [row.tag for row in rows.values() if row.name == model]
    if tags:
        raise ConfigError(f"{model} has no pretrained weights {tag!r}; {name_choices(tag, tags)} (see: zoo list --pretrained '{model}*')")
    near = name_choices(model, sorted({row.name for row in rows.values()}))
    raise ConfigError(f"there are no pretrained weights of {model!r}; {near} (see: zoo list --pretrained)")


def list_pretrained(pattern: str = "*", kind: str | None = None, modality: str | None = None) -> list[str]:
    """Return the names ``NAME:TAG`` whose name, or name and tag, match a shell pattern, sorted."""
    chosen = [row for row in pretrained_rows().values() if any(fnmatch.fnmatchcase(n, pattern) for n in (row.name, row.full_name))]
    return sorted(row.full_name for row in chosen if kind in (None, row.kind) and modality in (None, *row.modalities))

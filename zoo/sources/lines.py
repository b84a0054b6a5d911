"""Plain text file with one text per line, to distil or evaluate text encoders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.data.groups import stable_group
from zoo.errors import ConfigError, DataError, name_choices
from zoo.registry import register
from zoo.storage.outside import refuse_special
from zoo.types import Sample, Source, Split

VALIDATION_SHARE = 0.01


@register("source")
class Lines(Source):
    """Lines of a UTF-8 text file without empty and repeated ones; a hash of the text puts one line in a hundred into validation.

    Args:
        path: the file, or a folder with ``lines.txt`` (``zoo fetch wordnet``).
        templates: texts with ``{}`` in place of the line; training draws one, validation takes the first.

    Raises:
        ConfigError: a template has no ``{}``.
        DataError: the file cannot be read, or has no text.
    """

    modalities = ("text",)
    splits = ("train", "validation")
    class_names: tuple[str, ...] = ()

    def __init__(self, *, path: str | Path, templates: Sequence[str] = ("{}",)) -> None:
        if isinstance(templates, str) or not templates or any("{}" not in template for template in templates):
            raise ConfigError(f"templates: {templates!r}; allowed is a list of texts, each with {{}} where the line goes")
        file = Path(path) / "lines.txt" if Path(path).is_dir() else Path(path)
        refuse_special(file, lambda message: DataError(f"data.path: {message}"))
        try:
            texts = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"data.path: {file} cannot be read ({error}); give a UTF-8 text file with one text per line") from error
        self.templates = tuple(templates)
        self._texts: dict[str, list[str]] = {name: [] for name in self.splits}
        for text in dict.fromkeys(filter(None, texts)):
            self._texts["validation" if stable_group(text) < VALIDATION_SHARE * 2**63 else "train"].append(text)
        if not self._texts["train"]:
            raise DataError(f"data.path: {file} holds no text; give a file with one text per line")

    def split(self, name: str) -> "LinesSplit":
        """Return the samples of one split.

        Raises:
            ConfigError: no such split.
        """
        if name not in self.splits:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, self.splits)}")
        return LinesSplit(self._texts[name], self.templates)

    def captions(self) -> list[str]:
        """Return the texts of the training split, as text to train a tokenizer on."""
        return self._texts["train"]


class LinesSplit(Split):
    """One split of the lines."""

    def __init__(self, texts: Sequence[str], templates: Sequence[str]) -> None:
        self.texts, self.templates = texts, templates

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index`` in a template: a random one if a generator is given, else the first."""
        template = self.templates[0 if generator is None else int(generator.integers(len(self.templates)))]
        return Sample(f"line {index + 1}", {"text": template.replace("{}", self.texts[index])})

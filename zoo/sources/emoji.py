"""Emoji in six styles: 1,623 concepts with labels and tags; one style and a tenth of the concepts are held out of training.

Data: Iconify's collections and Emojibase, as ``zoo fetch emoji`` stores them. Twemoji's drawings are used for testing only, and held-out
concepts are not trained on in any style. A test therefore shows an unseen style, and optionally also unseen concepts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.data.groups import stable_group
from zoo.data.readers.table import read_table
from zoo.errors import ConfigError, DataError, name_choices
from zoo.processors.media.image_file import DECODE_ERRORS, open_image
from zoo.registry import register
from zoo.sources.wording.captions import caption, checked_templates, class_captions
from zoo.sources.wording.held_out import HeldOut
from zoo.types import Sample, Source, Split

TABLE = "table.jsonl"
TEST_STYLE = "twemoji"
CONCEPTS = ("seen", "unseen", "all")
BACKGROUNDS = ("white", "varied")
TEMPLATES = (
    "{}",
    "an emoji of {}",
    "a drawing of {}",
    "an icon of {}",
    "a picture of {}",
    "a cartoon of {}",
    "clip art of {}",
    "an illustration showing {}",
)
VALIDATION_SHARE = 0.1  # share of the drawings of seen concepts, chosen by a hash of their paths
TAGS_AT_ONCE = 4  # maximum number of tags in a caption made of tags
DARKEST = 64  # minimum channel value (0 to 255) of a coloured background, so that black drawings stay visible


@dataclass(frozen=True)
class Drawing:
    """One row of a table of drawings.

    Attributes:
        path: the image file.
        name: folder and path of the image, as a name for messages.
        label: the concept shown; None if the image has only a caption.
        text: caption used as it is, or None.
        held_out: True if the concept is held out of training; None if the table has no such column.
    """

    path: Path
    name: str
    style: str
    label: str | None
    text: str | None
    tags: tuple[str, ...]
    held_out: bool | None


@register("source")
class Emoji(Source):
    """Drawings of emoji, with captions from labels and tags.

    Args:
        path: folder written by ``zoo fetch emoji``.
        concepts: concepts that are the classes and make up the test split: "seen", "unseen" or "all". Training and validation always use
            seen concepts.
        extra: more folders to train on (``zoo fetch emoji_styles``, ``icons``, ``openclipart``, ``stamps``); items that show or mention a
            held-out concept are left out.
        other_share: share of training items that do not show an emoji concept; None takes ``extra`` as it is.
        templates: captions with ``{}`` in place of the label; in evaluation they are the prompts.
        tag_share: share of training captions that consist of a few tags and not of the label.
        backgrounds: backgrounds in training: "white", or "varied", which gives half of the images a random colour that is not too dark.

    Raises:
        ConfigError: a value is unknown, a share is outside [0, 1], or templates are not allowed.
        DataError: a folder has no table, or a table has faulty rows.
    """

    modalities = ("image", "text")
    splits = ("train", "validation", "test")

    def __init__(
        self,
        *,
        path: str | Path,
        concepts: str = "seen",
        extra: Sequence[str | Path] = (),
        other_share: float | None = None,
        templates: Sequence[str] = TEMPLATES,
        tag_share: float | int = 0.25,
        backgrounds: str = "white",
    ) -> None:
        for key, value, allowed in (("concepts", concepts, CONCEPTS), ("backgrounds", backgrounds, BACKGROUNDS)):
            if value not in allowed:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, allowed)}")
        for key, share in (("tag_share", tag_share), ("other_share", other_share)):
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"{key}: {share}; allowed are shares from 0 to 1")
        if isinstance(extra, str | Path):
            raise ConfigError(f"extra: {str(extra)!r} is one folder; give a list of folders")
        self.other_share = other_share
        self.templates, self.tag_share, self.backgrounds = checked_templates(templates), tag_share, backgrounds
        self.path, self.concepts = Path(path), concepts
        self._drawings = list(read_drawings(self.path, "emoji"))
        self._extra = self._allowed_of(extra)
        shown = [drawing for drawing in self._drawings if concepts == "all" or drawing.held_out == (concepts == "unseen")]
        self.class_names = list(dict.fromkeys(drawing.label for drawing in shown if drawing.label is not None))
        self._tested = [drawing for drawing in shown if drawing.style == TEST_STYLE]

    def split(self, name: str) -> "EmojiSplit":
        """Return the samples of one split.

        Raises:
            ConfigError: no such split.
        """
        if name not in self.splits:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, self.splits)}")
        labels = {label: index for index, label in enumerate(self.class_names)}
        drawings, order = self._of_split(name), None
        if name == "train" and self.other_share is not None:
            concepts = {drawing.label for drawing in self._drawings}
            order = SharedOrder([drawing.label not in concepts for drawing in drawings], self.other_share)
        return EmojiSplit(drawings, labels, self.templates, self.tag_share, self.backgrounds, order)

    def captions(self) -> list[str]:
        """Return the labels in all templates, the captions and the tags of the training split, as text to train a tokenizer on."""
        training = self._of_split("train")
        labels = dict.fromkeys(drawing.label for drawing in training if drawing.label is not None)
        texts = dict.fromkeys(drawing.text for drawing in training if drawing.text is not None)
        tags = dict.fromkeys(", ".join(drawing.tags) for drawing in training if drawing.tags)
        return [*class_captions(self.templates, list(labels)), *texts, *tags]

    def _of_split(self, name: str) -> list[Drawing]:
        if name == "test":
            return self._tested
        ours = [drawing for drawing in self._drawings if drawing.style != TEST_STYLE and not drawing.held_out]
        kept = [drawing for drawing in ours if _is_validation(drawing) == (name == "validation")]
        return kept + self._extra if name == "train" else kept

    def _allowed_of(self, folders: Sequence[str | Path]) -> list[Drawing]:
        """Return the drawings of extra folders, without the test style and without held-out concepts."""
        labels = {held: {drawing.label or "" for drawing in self._drawings if drawing.held_out == held} for held in (True, False)}
        held_out = HeldOut(labels[True], labels[False])

        def allowed(drawing: Drawing) -> bool:
            if drawing.held_out is not None:  # decided by Unicode code points, which is more reliable than matching words
                return not drawing.held_out
            return not held_out.mentioned(drawing.label or "", drawing.text or "", tags=drawing.tags)

        found = (drawing for folder in folders for drawing in read_drawings(Path(folder), Path(folder).name))
        return [drawing for drawing in found if drawing.style != TEST_STYLE and allowed(drawing)]


class SharedOrder:
    """Order of an epoch in which a given share of the items is of the second of two kinds.

    Within a kind, the numbers of repeats of any two items differ by one at most. Example: with items ``[a b c | x]`` and a share of 0.5 for
    the second kind, an epoch of four items is ``[c x x a]``.

    Args:
        second: True for each item of the second kind.
        share: share of the second kind, from 0 to 1; ignored if all items are of one kind.
    """

    def __init__(self, second: Sequence[bool], share: float) -> None:
        self.kinds = [np.flatnonzero(np.array(second) == kind) for kind in (False, True)]
        counted = [len(kind) for kind in self.kinds]
        others = round(share * sum(counted)) if all(counted) else counted[1]
        self.counts = [sum(counted) - others, others]

    def __call__(self, seed: int, epoch: int) -> np.ndarray:
        generator = np.random.default_rng((seed, epoch))
        drawn = [_drawn(kind, count, generator) for kind, count in zip(self.kinds, self.counts, strict=True)]
        return generator.permutation(np.concatenate(drawn))


def _drawn(items: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``count`` items: repeat all items as often as possible, and draw the remainder without replacement."""
    if not count:
        return items[:0]
    whole, rest = divmod(count, len(items))
    return np.concatenate([np.tile(items, whole), generator.choice(items, rest, replace=False)])


class EmojiSplit(Split):
    """One split of the drawings; images are read lazily."""

    order: SharedOrder | None = None

    def __init__(
        self,
        drawings: Sequence[Drawing],
        labels: dict[str, int],
        templates: Sequence[str],
        tag_share: float | int,
        backgrounds: str,
        order: SharedOrder | None = None,
    ) -> None:
        self.order = order
        self.drawings, self.labels, self.templates = drawings, labels, templates
        self.tag_share, self.backgrounds = tag_share, backgrounds

    def __len__(self) -> int:
        return len(self.drawings)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index`` on white with its label; a generator varies caption and background.

        Raises:
            DataError: the image cannot be read; the message begins with the item's id.
        """
        drawing = self.drawings[index]
        text = self._caption(drawing, generator)
        try:
            image = _on_ground(drawing.path, _ground(generator) if self.backgrounds == "varied" else None)
        except DataError as error:
            raise DataError(f"item {drawing.name}: {error}") from error
        label = None if drawing.label is None else self.labels.get(drawing.label)
        group = stable_group((drawing.label or drawing.text or "").lower())
        return Sample(drawing.name, {"image": image, "text": text}, group=group, label=label)

    def _caption(self, drawing: Drawing, generator: np.random.Generator | None) -> str:
        if generator is not None and drawing.tags and generator.random() < self.tag_share:
            count = int(generator.integers(1, 1 + min(TAGS_AT_ONCE, len(drawing.tags))))
            return ", ".join(drawing.tags[index] for index in generator.permutation(len(drawing.tags))[:count])
        whole = drawing.label is None or generator is None or generator.random() < 0.5
        if drawing.text is not None and whole:
            return drawing.text
        return drawing.label or "" if generator is None else caption(self.templates, drawing.label or "", generator)


def read_drawings(folder: Path, asset: str) -> Iterator[Drawing]:
    """Yield the drawings that a folder's ``table.jsonl`` lists.

    Args:
        asset: name of the asset for ``zoo fetch``; it is the first part of the drawings' names.

    Raises:
        DataError: there is no table, or a row is faulty.
    """
    table = folder / TABLE
    if not table.is_file():
        raise DataError(f"data.path: {folder} has no {TABLE}; name the folder that `zoo fetch {asset}` prints")
    for row in read_table(table, ("path",)):
        fault = row.fault or _fault(row.values)
        if fault is not None:
            raise DataError(f"data.path: {table}, row {row.number}: {fault}; fetch the folder again")
        values = row.values
        yield Drawing(
            path=folder / values["path"],
            name=f"{asset}/{values['path']}",
            style=values.get("style", asset),
            label=values.get("label"),
            text=values.get("caption"),
            tags=tuple(values.get("tags", ())),
            held_out=values.get("held_out"),
        )


def _fault(values: dict[str, Any]) -> str | None:
    if not isinstance(values["path"], str) or not values["path"]:
        return f"path is {values['path']!r}, where a text is expected"
    if not any(isinstance(values.get(key), str) and values[key] for key in ("label", "caption")):
        return "neither a label nor a caption"
    if not isinstance(values.get("tags", []), list):
        return f"tags are {values['tags']!r}, where a list is expected"
    return None


def _is_validation(drawing: Drawing) -> bool:
    return stable_group(drawing.name) < VALIDATION_SHARE * 2**63


def _ground(generator: np.random.Generator | None) -> tuple[int, ...] | None:
    """Draw a random background colour (RGB, 0 to 255) in half of the cases; None means white."""
    if generator is None or generator.random() < 0.5:
        return None
    return tuple(int(value) for value in generator.integers(DARKEST, 256, 3))


def _on_ground(path: Path, colour: tuple[int, ...] | None) -> Image.Image:
    """Open an image and fill its transparent parts with a colour (RGB, 0 to 255); None fills with white.

    Raises:
        DataError: the image cannot be read.
    """
    if colour is None:
        return open_image(path)
    try:
        with Image.open(path) as image:
            drawn = image.convert("RGBA")
    except DECODE_ERRORS as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch the folder again") from error
    return Image.alpha_composite(Image.new("RGBA", drawn.size, (*colour, 255)), drawn).convert("RGB")

"""Tar shards as img2dataset and webdataset write them, read at any place, so that a run resumes exactly.

Webdataset streams its shards and shuffles in a buffer, whose content a resumed run does not have. Here an index of offsets makes the
shards an array of samples: what a step reads follows from seed and step alone. Reads stay local all the same, see ``WindowedOrder``.
"""

import glob
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.order import WindowedOrder
from zoo.data.readers import tar
from zoo.data.readers.shard_index import Index, index_shards, is_image
from zoo.data.skips import MAX_SHARE
from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.processors.media.image_file import read_pixels
from zoo.registry import register
from zoo.sources.wording.captions import caption, checked_templates, class_captions, stable_group
from zoo.types import Sample

SPLITS = ("train", "validation", "test")
FAULTS_SHOWN = 5
CAPTIONS_READ = 20_000  # of training, spread evenly, to train a tokenizer on
Patterns = str | Sequence[str]


@register("source")
class Shards:
    """Pictures with captions or class numbers in tar files: ``KEY.jpg KEY.txt KEY.json KEY.cls``.

    Args:
        path: shards of training, as one pattern or a list: ``data/{00000..00099}.tar``, ``data/*.tar``.
        validation: shards of that split; None where there are none.
        test: likewise.
        caption_key: "txt" is that member; "json.caption" a field of the member ``json`` (a list holds several captions, of which
            training draws one); None takes no captions from the shards.
        class_names: names of the numbers in ``cls``, or a file with one on each line; without, there are no labels.
        templates: for captions where ``caption_key`` is None: each has ``{}`` where the class name goes.
        min_size: pixels of a picture's shorter side below which it is left out.
        shuffle_window: samples that are mixed with one another while the shards come in random order; about as many are read from
            all over the disk at a time. None mixes all.
        on_bad: of shards that are cut short, damaged or empty: "error" refuses them, "skip" uses what is whole; ``skipped`` lists them.
        index_directory: where indexes are kept, 12 bytes a sample; None: in the cache of ``zoo fetch``.

    Raises:
        ConfigError: a keyword that is not allowed, or braces in a pattern without the package that reads them.
        DataError: no shards, or some that cannot be used.
    """

    modalities = ("image", "text")
    splits = SPLITS

    def __init__(
        self,
        *,
        path: Patterns,
        validation: Patterns | None = None,
        test: Patterns | None = None,
        caption_key: str | None = "txt",
        class_names: Patterns | None = None,
        templates: Sequence[str] = ("a photo of a {}.",),
        min_size: int = 0,
        shuffle_window: int | None = 65_536,
        on_bad: str = "error",
        index_directory: str | Path | None = None,
    ) -> None:
        if on_bad not in ("error", "skip"):
            raise ConfigError(f"on_bad: there is no {on_bad!r}; {name_choices(on_bad, ('error', 'skip'))}")
        if min_size < 0 or (shuffle_window is not None and shuffle_window < 1):
            raise ConfigError(f"min_size: {min_size}, shuffle_window: {shuffle_window}; allowed are 0 or more, and 1 or more or null")
        self.caption_key = _checked_caption_key(caption_key)
        self.templates, self.class_names = checked_templates(templates), _class_names(class_names)
        self.min_size, self.shuffle_window, self.on_bad, self.index_directory = min_size, shuffle_window, on_bad, index_directory
        given = {"path": path, "validation": validation, "test": test}
        self.paths = {
            split: find_shards(patterns, f"data.source.{key}") if patterns is not None else []
            for split, (key, patterns) in zip(SPLITS, given.items(), strict=True)
        }
        self.skipped: list[str] = []
        self._splits: dict[str, ShardsSplit] = {}
        self.split("train")  # so that bad shards are found now

    def split(self, name: str) -> "ShardsSplit":
        """The samples of one split; its shards are indexed when it is first asked for.

        Raises:
            ConfigError: no such split.
            DataError: it has no shards, or bad ones.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        if not self.paths[name]:
            raise DataError(
                f"data.source.{name}: no shards were given for this split; give some, data.source.{name}=PATTERN"
                + (", or train without looking (training.evaluate_every=0)" if name == "validation" else "")
            )
        if name not in self._splits:
            self._splits[name] = self._indexed(self.paths[name])
        return self._splits[name]

    def captions(self) -> list[str]:
        """Captions of training, each once, to train a tokenizer on: those of 20,000 samples spread evenly where there are more."""
        return [*dict.fromkeys(self.split("train").captions(CAPTIONS_READ)), *class_captions(self.templates, self.class_names)]

    def _indexed(self, paths: list[Path]) -> "ShardsSplit":
        index = index_shards(paths, min_size=self.min_size, directory=self.index_directory)
        self.skipped += index.faults
        if index.faults and (self.on_bad == "error" or not len(index.entries)):
            count = len(index.faults)
            raise DataError(
                f"data.source: {count} bad {'shard' if count == 1 else 'shards'}; download again, leave out, or use what is whole with "
                "data.source.on_bad=skip" + "".join(f"\n  {fault}" for fault in index.faults[:FAULTS_SHOWN])
            )
        if not len(index.entries):
            raise DataError(f"data.source.min_size: {self.min_size} leaves no sample, all {index.small} pictures are smaller; lower it")
        return ShardsSplit(paths, index, self.caption_key, self.class_names, self.templates, self.shuffle_window)


class ShardsSplit:
    """One split of shards; samples are read when asked for."""

    max_bad_share: float | None = MAX_SHARE  # shards from the web hold pictures that cannot be decoded

    def __init__(
        self,
        paths: list[Path],
        index: Index,
        caption_key: Sequence[str] | None,
        class_names: Sequence[str],
        templates: Sequence[str],
        shuffle_window: int | None,
    ) -> None:
        self.index, self.caption_key, self.class_names, self.templates = index, caption_key, class_names, templates
        self.shuffle_window = shuffle_window
        self.files, self.ends = tar.ShardFiles(paths, index.stamps), np.cumsum(index.sizes)
        short = [path.name for path in paths]
        self.names = short if len(set(short)) == len(short) else list(map(str, paths))

    def __len__(self) -> int:
        return len(self.index.entries)

    def order(self, seed: int, epoch: int) -> WindowedOrder:
        """The order of an epoch of training."""
        return WindowedOrder(self.index.sizes, window=self.shuffle_window or len(self), seed=seed, epoch=epoch)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Item ``index``, read and decoded.

        Raises:
            ItemError: the sample cannot be used; ``reason`` is image, caption, label or shard.
        """
        name, contents = self.contents(index)
        picture = next(filter(is_image, contents), None)
        if picture is None:
            raise ItemError(f"item {name}: holds no picture, only {', '.join(contents)}", "image")
        label = self._label(name, contents)
        text = self._caption(name, contents, label, generator)
        try:
            pixels = read_pixels(contents[picture], name=f"{name}.{picture}")
        except DataError as error:
            raise ItemError(f"item {error}", "image") from error
        inputs = {"image": pixels} if text is None else {"image": pixels, "text": text}
        meaning = text if self.caption_key is not None or label is None else self.class_names[label]
        return Sample(name, inputs, group=None if meaning is None else stable_group(meaning), label=label)

    def contents(self, index: int) -> tuple[str, dict[str, bytes]]:
        """The shard and key of item ``index``, and its members' bytes by suffix.

        Raises:
            ItemError: the shard cannot be read any more.
        """
        shard, start, size = self._place(index)
        data = self.files.read(shard, start, size)
        # Reading as if the sample were a file of its own: offsets are from its beginning.
        members = list(tar.walk(lambda offset, count: data[offset : offset + count], 0, size, trusted=True))
        if not members:
            raise ItemError(f"item {self.names[shard]}, byte {start}: nothing is there any more", "shard")
        found = {member.suffix: data[member.offset : member.offset + member.size] for member in members}
        return f"{self.names[shard]}:{members[0].key}", found

    def captions(self, most: int) -> list[str]:
        """All captions of at most so many samples, spread evenly; pictures are not read.

        Raises:
            DataError: none of the samples has one.
        """
        if self.caption_key is None:
            return []
        found: list[str] = []
        fault: ItemError | None = None
        for i in range(min(most, len(self))):
            shard, start, size = self._place(i * len(self) // min(most, len(self)))
            read = partial(self.files.read, shard)
            members = tar.walk(read, start, start + size, trusted=True)
            contents = {m.suffix: read(m.offset, m.size) if m.suffix == self.caption_key[0] else b"" for m in members}
            try:
                found += _texts(self.names[shard], contents, self.caption_key)
            except ItemError as error:  # counted when it is drawn
                fault = fault or error
        if fault is not None and not found:
            raise DataError(f"data.source.caption_key: no sample has such a caption; {fault}")
        return found

    def _place(self, index: int) -> tuple[int, int, int]:
        """Number of the shard that holds an item, and where in it: first byte and number of bytes."""
        entry = self.index.entries[index]
        return int(np.searchsorted(self.ends, index, side="right")), int(entry["offset"]), int(entry["size"])

    def _label(self, name: str, contents: dict[str, bytes]) -> int | None:
        """The class number of a sample; None where it has none, or the classes have no names."""
        if not self.class_names or "cls" not in contents:
            return None
        text = contents["cls"].decode("ascii", "replace").strip()
        if not text.isdecimal() or int(text) >= len(self.class_names):
            raise ItemError(
                f"item {name}: cls is {text!r}; allowed is 0 to {len(self.class_names) - 1}, the classes in class_names", "label"
            )
        return int(text)

    def _caption(self, name: str, contents: dict[str, bytes], label: int | None, generator: np.random.Generator | None) -> str | None:
        if self.caption_key is None:
            return None if label is None else caption(self.templates, self.class_names[label], generator)
        texts = _texts(name, contents, self.caption_key)
        return texts[0 if generator is None or len(texts) == 1 else int(generator.integers(len(texts)))]


def find_shards(patterns: Patterns, key: str) -> list[Path]:
    """The files that patterns with braces and wildcards name, each once, in the order of the patterns.

    Raises:
        ConfigError: braces, and the package that reads them is missing.
        DataError: a pattern that matches nothing, or a path that is no tar file; ``key`` is the config key that gave it.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if "://" in pattern or pattern.startswith("pipe:"):
            raise DataError(f"{key}: {pattern}; shards are read at any place, so they must be files: download or mount them")
        for word in _expanded(pattern, key):
            matches = sorted(glob.glob(word)) if glob.has_magic(word) and not Path(word).exists() else [word]
            if not matches:
                raise DataError(f"{key}: {word} matches no file; check the path (the current folder is {Path.cwd()})")
            found += map(Path, matches)
    if not found:
        raise DataError(f"{key}: {patterns!r} names no shards; give a pattern, for example 'data/{{00000..00099}}.tar'")
    found = list(dict.fromkeys(found))
    for path in found:
        tar.refuse_no_tar(path, key)
    return found


def _expanded(pattern: str, key: str) -> list[str]:
    """``{000..002}.tar`` as its three names."""
    if "{" not in pattern:
        return [pattern]
    try:
        import braceexpand  # comes with webdataset, whose convention this is
    except ImportError as error:
        raise ConfigError(f"{key}: braces need webdataset ({error}); pip install 'multimodal-zoo[webdataset]', or use *") from error
    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise DataError(f"{key}: {pattern}: unbalanced braces ({error})") from error


def _checked_caption_key(key: str | None) -> tuple[str, ...] | None:
    """``json.caption`` as its words."""
    if key is None:
        return None
    words = tuple(key.split("."))
    if not all(words) or (len(words) > 1) != (words[0] == "json"):
        raise ConfigError(f"caption_key: {key!r}; allowed are a member's suffix (txt), a field of the member json (json.caption), or null")
    return words


def _class_names(given: Patterns | None) -> list[str]:
    """Names as given, or the lines of a file."""
    if not isinstance(given, str):
        return list(given or ())
    try:
        return [line.strip() for line in Path(given).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.source.class_names: {given} cannot be read ({error}); give a list, or a file with one name on each line"
        ) from error


def _texts(name: str, contents: dict[str, bytes], key: Sequence[str]) -> list[str]:
    """The captions of a sample.

    Raises:
        ItemError: there is none.
    """
    if key[0] not in contents:
        raise ItemError(f"item {name}: has no {key[0]}, only {', '.join(contents)}", "caption")
    try:
        value: Any = contents[key[0]].decode("utf-8")
        for depth, word in enumerate(key[1:]):
            value = (json.loads(value) if depth == 0 else value)[word]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ItemError(f"item {name}: no {'.'.join(key)} can be read ({type(error).__name__}: {str(error)[:100]})", "caption") from error
    texts = [text.strip() for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text.strip()]
    if not texts:
        raise ItemError(f"item {name}: {'.'.join(key)} is {value!r:.60}, where a caption is expected", "caption")
    return texts

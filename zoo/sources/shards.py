"""Image-text tar shards of img2dataset and webdataset with random access, so that an interrupted run resumes exactly.

Webdataset streams its shards and shuffles in a buffer, which is lost when a run stops. Here an index of offsets makes the shards an array
of samples, so that the samples of a step depend only on the seed and the step. Reads still stay local on the disk, see ``WindowedOrder``.
"""

import glob
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.groups import stable_group
from zoo.data.order import WindowedOrder
from zoo.data.readers import tar
from zoo.data.readers.shard_index import Index, index_shards, is_image
from zoo.data.skips import MAX_SHARE
from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.processors.media.image_file import read_pixels
from zoo.registry import register
from zoo.sources.wording.captions import caption, checked_templates, class_captions
from zoo.storage import remote
from zoo.storage.outside import parse_json, refuse_special, shown
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
FAULTS_SHOWN = 5
CAPTIONS_READ = 20_000  # training samples, spread evenly, whose captions a tokenizer is trained on
Patterns = str | Sequence[str]


@register("source")
class Shards(Source):
    """Images with captions or class numbers in tar files: ``KEY.jpg KEY.txt KEY.json KEY.cls``.

    Args:
        path: training shards, as one pattern or a list: ``data/{00000..00099}.tar``, ``data/*.tar``.
        validation: validation shards; None if there are none.
        test: test shards; None if there are none.
        caption_key: source of the captions. "txt" is the member ``txt``; "json.caption" is a field of the member ``json`` (if it is a list,
            training draws one of the captions); None takes no captions from the shards.
        class_names: names of the class numbers in ``cls``, or a file with one name per line; None gives samples without labels.
        templates: captions with ``{}`` in place of the class name, used if ``caption_key`` is None.
        min_size: minimum length in pixels of an image's shorter side; samples with a smaller image are left out.
        shuffle_window: number of samples that are shuffled together; the shards come in random order. A smaller window keeps reads more
            local. None shuffles all samples together.
        on_bad: treatment of shards that are truncated, damaged or empty. "error" raises DataError; "skip" uses their complete samples and
            lists the shards in ``skipped``.
        index_directory: folder of the cached indexes (12 bytes per sample); None takes the cache of ``zoo fetch``.

    Raises:
        ConfigError: a value is not allowed.
        DataError: there are no shards, or some cannot be used.
    """

    modalities = ("image", "text")
    reads_remote = ("path", "validation", "test")  # in ranges, where the shards lie
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
        self.split("train")  # report damaged shards now, not at the first training step

    def split(self, name: str) -> "ShardsSplit":
        """Return the samples of one split; the first call indexes its shards.

        Raises:
            ConfigError: no such split.
            DataError: the split has no shards, or some cannot be used.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        if not self.paths[name]:
            raise DataError(
                f"data.source.{name}: this split has no shards; give them with data.source.{name}=PATTERN"
                + (", or train without validation (training.evaluate_every=0)" if name == "validation" else "")
            )
        if name not in self._splits:
            self._splits[name] = self._indexed(self.paths[name])
        return self._splits[name]

    def captions(self) -> list[str]:
        """Return the captions of at most 20,000 evenly spread training samples without duplicates, as text to train a tokenizer on."""
        return [*dict.fromkeys(self.split("train").captions(CAPTIONS_READ)), *class_captions(self.templates, self.class_names)]

    def _indexed(self, paths: list[tar.Place]) -> "ShardsSplit":
        index = index_shards(paths, min_size=self.min_size, directory=self.index_directory)
        self.skipped += index.faults
        if index.faults and (self.on_bad == "error" or not len(index.entries)):
            count = len(index.faults)
            raise DataError(
                f"data.source: {count} bad {'shard' if count == 1 else 'shards'}; download them again, leave them out, or use "
                "their complete samples with data.source.on_bad=skip" + "".join(f"\n  {fault}" for fault in index.faults[:FAULTS_SHOWN])
            )
        if not len(index.entries):
            raise DataError(f"data.source.min_size: {self.min_size} leaves no sample, all {index.small} images are smaller; lower it")
        return ShardsSplit(paths, index, self.caption_key, self.class_names, self.templates, self.shuffle_window)


class ShardsSplit(Split):
    """One split of shards; samples are read lazily."""

    max_bad_share: float | None = MAX_SHARE  # tolerated by default, because shards from the web hold images that cannot be decoded

    def __init__(
        self,
        paths: list[tar.Place],
        index: Index,
        caption_key: Sequence[str] | None,
        class_names: Sequence[str],
        templates: Sequence[str],
        shuffle_window: int | None,
    ) -> None:
        self.index, self.caption_key, self.class_names, self.templates = index, caption_key, class_names, templates
        self.shuffle_window = shuffle_window
        self.files, self.ends = tar.ShardFiles(paths, index.stamps), np.cumsum(index.sizes)
        short = [path.rpartition("/")[2] if isinstance(path, str) else path.name for path in paths]
        self.names = short if len(set(short)) == len(short) else list(map(str, paths))

    def __len__(self) -> int:
        return len(self.index.entries)

    def order(self, seed: int, epoch: int) -> WindowedOrder:
        """Return the order of a training epoch."""
        return WindowedOrder(self.index.sizes, window=self.shuffle_window or len(self), seed=seed, epoch=epoch)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index`` with its decoded image; a generator draws the caption.

        Raises:
            ItemError: the sample cannot be used; ``reason`` is image, caption, label or shard.
        """
        name, contents = self.contents(index)
        picture = next(filter(is_image, contents), None)
        if picture is None:
            raise ItemError(f"item {name}: has no image, only {_members(contents)}", "image")
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
        """Return the name of item ``index``, ``SHARD:KEY``, and the bytes of its members by suffix.

        Raises:
            ItemError: the shard cannot be read any more.
        """
        shard, start, size = self._place(index)
        data = self.files.read(shard, start, size)
        # One read per sample: its bytes are parsed like a whole tar file, with offsets relative to the sample.
        members = list(tar.walk(lambda offset, count: data[offset : offset + count], 0, size, trusted=True))
        if not members:
            raise ItemError(f"item {self.names[shard]}, byte {start}: the sample is missing; the shard has changed", "shard")
        found = {member.suffix: data[member.offset : member.offset + member.size] for member in members}
        return f"{self.names[shard]}:{members[0].key}", found

    def captions(self, most: int) -> list[str]:
        """Return all captions of at most ``most`` evenly spread samples; images are not read.

        Raises:
            DataError: no sample has a caption.
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
            except ItemError as error:  # not reported here: the loader counts the item when it is drawn
                fault = fault or error
        if fault is not None and not found:
            raise DataError(f"data.source.caption_key: no sample has a caption under this key; {fault}")
        return found

    def _place(self, index: int) -> tuple[int, int, int]:
        """Return the index of the shard that holds an item, and the item's first byte and number of bytes in it."""
        entry = self.index.entries[index]
        return int(np.searchsorted(self.ends, index, side="right")), int(entry["offset"]), int(entry["size"])

    def _label(self, name: str, contents: dict[str, bytes]) -> int | None:
        """Return the class number of a sample; None if it has no ``cls``, or no class names were given."""
        if not self.class_names or "cls" not in contents:
            return None
        text = contents["cls"].decode("ascii", "replace").strip()
        if not text.isdecimal() or len(text) > 18 or int(text) >= len(self.class_names):
            raise ItemError(
                f"item {name}: cls is {shown(text, 40)}; allowed is 0 to {len(self.class_names) - 1}, the classes in class_names", "label"
            )
        return int(text)

    def _caption(self, name: str, contents: dict[str, bytes], label: int | None, generator: np.random.Generator | None) -> str | None:
        if self.caption_key is None:
            return None if label is None else caption(self.templates, self.class_names[label], generator)
        texts = _texts(name, contents, self.caption_key)
        return texts[0 if generator is None or len(texts) == 1 else int(generator.integers(len(texts)))]


def _remote_shards(pattern: str, key: str) -> list[str]:
    """Return the URLs that a pattern with wildcards names; they are read in ranges, where they lie."""
    found = remote.matches(pattern) if "*" in pattern else [pattern]
    if not found:
        raise DataError(f"{key}: {pattern} matches no file; check the name")
    return found


def find_shards(patterns: Patterns, key: str) -> list[tar.Place]:
    """Return the tar files that match patterns with braces and wildcards, without duplicates, in the order of the patterns.

    Files of this disk are paths, remote ones URLs.

    Args:
        key: config key that gave the patterns, for messages.

    Raises:
        DataError: a pattern matches no file, or a file is not an uncompressed tar file.
    """
    found: list[tar.Place] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if pattern.startswith("pipe:"):
            raise DataError(f"{key}: {pattern}; shards need random access, which a pipe lacks; give its URL (s3://, gs://, https://)")
        for word in _expanded(pattern, key):
            if remote.is_remote(word):
                found += _remote_shards(word, key)
                continue
            matches = sorted(glob.glob(word)) if glob.has_magic(word) and not Path(word).exists() else [word]
            if not matches:
                raise DataError(f"{key}: {word} matches no file; check the path (the current folder is {Path.cwd()})")
            found += map(Path, matches)
    if not found:
        raise DataError(f"{key}: {patterns!r} gives no shards; give a pattern, for example 'data/{{00000..00099}}.tar'")
    found = list(dict.fromkeys(found))
    for path in found:
        tar.refuse_no_tar(path, key)
    return found


def _expanded(pattern: str, key: str) -> list[str]:
    """Expand the braces of a pattern: ``{000..002}.tar`` gives three names."""
    if "{" not in pattern:
        return [pattern]
    import braceexpand  # what webdataset, which introduced these patterns, expands them with

    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise DataError(f"{key}: {pattern}: unbalanced braces ({error})") from error


def _checked_caption_key(key: str | None) -> tuple[str, ...] | None:
    """Return a member's suffix and the fields in it: "json.caption" gives ("json", "caption"), "output.txt" gives ("output.txt",).

    Raises:
        ConfigError: the key has an empty word, or is ``json`` without a field.
    """
    if key is None:
        return None
    words = tuple(key.split("."))
    if words[0] != "json" and all(words):  # a member may have several suffixes: x.output.txt
        return (key.lower(),)
    if not all(words) or len(words) < 2:
        raise ConfigError(
            f"caption_key: {key!r}; allowed are a member's suffix (txt, output.txt), a field of the member json (json.caption), or null"
        )
    return words


def _class_names(given: Patterns | None) -> list[str]:
    """Return class names from a list or from the lines of a file."""
    if not isinstance(given, str):
        return list(given or ())
    refuse_special(Path(given), lambda message: DataError(f"data.source.class_names: {message}"))
    try:
        return [line.strip() for line in Path(given).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.source.class_names: {given} cannot be read ({error}); give a list, or a file with one name on each line"
        ) from error


def _members(contents: Iterable[str]) -> str:
    """Return the suffixes of a sample's members for a message, with an explanation if names with dots fell into one sample."""
    suffixes = list(contents)
    dotted = len({suffix.rpartition(".")[2] for suffix in suffixes}) < len(suffixes) and any("." in suffix for suffix in suffixes)
    why = "; names are split at their first dot, as webdataset does, so pictures that differ after it are one sample: rename them"
    return ", ".join(suffixes[:8]) + (", ..." if len(suffixes) > 8 else "") + (why if dotted else "")


def _texts(name: str, contents: dict[str, bytes], key: Sequence[str]) -> list[str]:
    """Return the captions of a sample, at least one.

    Raises:
        ItemError: the sample has no caption.
    """
    if key[0] not in contents:
        raise ItemError(f"item {name}: has no {key[0]}, only {_members(contents)}", "caption")
    try:
        value: Any = contents[key[0]].decode("utf-8")
        for depth, word in enumerate(key[1:]):
            value = (parse_json(value, f"item {name}", DataError) if depth == 0 else value)[word]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ItemError(f"item {name}: cannot read {'.'.join(key)} ({type(error).__name__}: {str(error)[:100]})", "caption") from error
    texts = [text.strip() for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text.strip()]
    if not texts:
        raise ItemError(f"item {name}: {'.'.join(key)} is {value!r:.60}, where a caption is expected", "caption")
    return texts

"""Check of sources."""

import pickle
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.testing.rules.comparison import refuse, require
from zoo.testing.rules.parts import check_keywords
from zoo.types import Sample, Source, Split

LIMIT = 20  # items of each split that are looked at


def check_source(source: Any, *, limit: int = LIMIT) -> None:
    """Check every rule of ``zoo.types.Source`` and ``zoo.types.Split``.

    Args:
        source: any.
        limit: items of each split that are looked at, evenly spread.

    Raises:
        ContractError: a rule is broken.
    """
    require(
        isinstance(source, Source), source, "a source is a subclass of zoo.types.Source", "it is none", "Source", "write class X(Source)"
    )
    check_keywords(type(source))
    known = {name for base in type(source).__mro__ for name in vars(base)} | set(vars(source))
    for word in ("modalities", "splits"):
        found = "it is empty" if word in known else "it has none"
        stated = word in known and bool(getattr(source, word))
        require(stated, source, f"a source must say {word}", found, "names", f"set {word} in the class, or self.{word}")
    _check_unknown_split(source)
    for name in source.splits:
        split = source.split(name)
        fits = isinstance(split, Split)
        require(
            fits, source, f"split({name!r}) gives a zoo.types.Split", f"it gives a {type(split).__name__}", "Split", "derive from Split"
        )
        _check_split(source, name, split, limit)


def _check_unknown_split(source: Source) -> None:
    try:
        source.split("no such split")
    except ZooError:
        return
    except Exception as error:  # noqa: BLE001  # whatever it is, it is no error of zoo
        refuse(source, "an unknown split is a ConfigError", f"it raises {type(error).__name__}: {error}", "ConfigError", "raise it")
    refuse(source, "an unknown split is a ConfigError", "nothing is raised", "ConfigError", "raise it with the names of the splits")


def _check_split(source: Source, name: str, split: Split, limit: int) -> None:
    if not len(split):
        return
    places = sorted({round(place) for place in np.linspace(0, len(split) - 1, min(limit, len(split)))})
    samples = [split.sample(place) for place in places]
    ids = [sample.id for sample in samples]
    require(len(set(ids)) == len(ids), source, "ids of samples are unique", f"split {name!r} repeats some", "one id an item", "number them")
    sent = pickle.loads(pickle.dumps(split))  # workers of a loader get the split so
    for place, sample in zip(places, samples, strict=True):
        _check_sample(source, sample)
        for again, rule in (
            (split.sample(place), "sample(i) is the same again"),
            (sent.sample(place), "a pickled split has the same items"),
        ):
            same = equal(vars(sample), vars(again))
            require(same, source, rule, f"{sample.id} differs", "equal samples", "draw only from the generator that is given")
        split.sample(place, np.random.default_rng(0))
    for modality in source.modalities:
        identities = split.identities(modality)
        fits = identities is None or len(identities) == len(split)
        found = "" if identities is None else f"there are {len(identities)}"
        require(fits, source, "identities has one value an item, or is None", found, f"{len(split)}", "correct identities")


def _check_sample(source: Source, sample: Sample) -> None:
    other = sorted(set(sample.inputs) - set(source.modalities))
    conversation = set(sample.inputs) == {"conversation"}  # holds several modalities
    remedy = "add the modality, or leave the input out"
    require(
        not other or conversation, source, f"modalities are {tuple(source.modalities)}", f"{sample.id} holds {other}", "no others", remedy
    )
    if sample.label is not None and source.class_names:
        number = len(source.class_names)
        fits = 0 <= sample.label < number
        require(
            fits, source, "labels are numbers of class_names", f"{sample.id} has {sample.label}", f"0 to {number - 1}", "correct the label"
        )


def equal(first: Any, second: Any) -> bool:
    """Return True for equal values; arrays, images and what holds them are compared by their content."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return list(first) == list(second) and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, np.ndarray):
        return first.shape == second.shape and bool(np.array_equal(first, second))
    if "__dict__" in dir(first) and type(first).__eq__ in (object.__eq__, None):
        return equal(vars(first), vars(second))
    if "__dataclass_fields__" in dir(first):
        return equal(vars(first), vars(second))
    return bool(first == second)

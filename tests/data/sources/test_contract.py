"""Every source that needs no files keeps every rule of ``zoo.testing.check_source``."""

import inspect

import numpy as np
import pytest

from zoo.errors import ConfigError
from zoo.registry import find_part, part_names
from zoo.testing import ContractError, check_source
from zoo.types import Sample, Source, Split


def needs_files(part):
    """True for a source that reads files, or that speaks with a voice that has to be installed."""
    return part.__name__ == "SpokenNumbers" or any(p.default is p.empty for p in inspect.signature(part).parameters.values())


@pytest.mark.parametrize("name", [name for name in part_names("source") if not needs_files(find_part("source", name))])
def test_each_source_keeps_the_contract(name):
    check_source(find_part("source", name)(), limit=4)


class Numbers(Source):
    """A source with the mistake that its constructor is given."""

    modalities, splits, class_names = ("text",), ("train",), ("even", "odd")

    def __init__(self, *, mistake=""):
        self.mistake = mistake
        if mistake == "no splits":
            self.splits = ()

    def split(self, name):
        if name not in self.splits and self.mistake != "any split":
            raise {}[name] if self.mistake == "a bare error" else ConfigError(f"split: there is no {name!r}")
        return NumbersSplit(self.mistake)


class NumbersSplit(Split):
    def __init__(self, mistake):
        self.mistake = mistake

    def __len__(self):
        return 5

    def sample(self, index, generator=None):
        inputs = {"text": str(np.random.rand()) if self.mistake == "random" else "x", **({"audio": "x"} if self.mistake == "audio" else {})}
        return Sample("same" if self.mistake == "ids" else str(index), inputs, label=2 if self.mistake == "label" else index % 2)


def test_a_source_without_mistakes_passes():
    check_source(Numbers())


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("no splits", "must say splits, but it is empty"),
        ("any split", "an unknown split is a ConfigError, but nothing is raised"),
        ("a bare error", "an unknown split is a ConfigError, but it raises KeyError"),
        ("ids", "ids of samples are unique, but split 'train' repeats some"),
        ("random", r"sample\(i\) is the same again, but 0 differs"),
        ("audio", r"modalities are \('text',\), but 0 holds \['audio'\]"),
        ("label", "labels are numbers of class_names, but 0 has 2 .expected: 0 to 1"),
    ],
)
def test_each_mistake_of_a_source_is_named(mistake, message):
    with pytest.raises(ContractError, match=message):
        check_source(Numbers(mistake=mistake))

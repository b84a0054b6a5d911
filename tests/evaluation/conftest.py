"""A trained system and its data, and a classifier that is not trained."""

import pytest

import zoo
from zoo.build import build_part


@pytest.fixture(scope="session")
def source():
    return build_part("source", {"name": "digits"}, "data.source")


@pytest.fixture(scope="session")
def clip():
    return zoo.load("clip_vit_nano")


@pytest.fixture(scope="session")
def classifier(source):
    head = {"name": "classifier", "class_names": list(source.class_names)}
    return zoo.create_system({"encoders": {"image": "vit_nano"}, "head": head})


class Unlabelled:
    """A source whose second item has no class, or cannot be read."""

    modalities, splits, templates = ("image", "text"), ("train", "validation", "test"), ["{}"]

    def __init__(self, source, *, fault=None):
        self.source, self.fault, self.class_names = source, fault, source.class_names

    def split(self, name):
        return UnlabelledSplit(self.source.split(name), self.fault)


class UnlabelledSplit:
    def __init__(self, split, fault):
        self.inner, self.fault = split, fault

    def __len__(self):
        return 4

    def sample(self, index, generator=None):
        sample = self.inner.sample(index)
        if index == 1 and self.fault is not None:
            raise self.fault
        if index == 1:
            sample.label = None
        return sample


@pytest.fixture
def unlabelled(source):
    return Unlabelled(source)


@pytest.fixture
def unreadable(source):
    return Unlabelled(source, fault=zoo.DataError("item b.png: cannot be read"))

"""Fixtures of evaluations: a trained system with data, an untrained classifier, and a stub system that answers by a function."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from zoo.processors.chat.messages import Conversation, Message
from zoo.registry.construct import build_part
from zoo.types import Sample, Source, Split


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


class Unlabelled(Source):
    """A source whose second item has no class, or cannot be read."""

    modalities, splits, templates = ("image", "text"), ("train", "validation", "test"), ["{}"]

    def __init__(self, source, *, fault=None):
        self.source, self.fault, self.class_names = source, fault, source.class_names

    def split(self, name):
        return UnlabelledSplit(self.source.split(name), self.fault)


class UnlabelledSplit(Split):
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


WORDS = "zero one two three four five six seven eight nine".split()


class Squares(Source):
    """Item i shows a square of brightness 10 * (i % 10): odd items ask for its number, even ones whether it is dark."""

    modalities, splits, class_names, templates, kinds = ("conversation", "image"), ("train", "test"), [], [], ["number", "dark"]

    def __init__(self, length=12, *, answers=None, fault=None):
        self.length, self.answers, self.fault = length, answers, fault

    def split(self, name):
        return SquaresSplit(self, name)


class SquaresSplit(Split):
    def __init__(self, source, name):
        self.source, self.name = source, name

    def __len__(self):
        return self.source.length

    def sample(self, index, generator=None):
        if self.source.fault == index:
            raise zoo.DataError(f"item {index}: cannot be read")
        number = index % 10
        image = np.full((8, 8, 3), 10 * number, dtype=np.uint8)
        kind, question, answer = (
            ("number", "Which number?", WORDS[number]) if index % 2 else ("dark", "Is it dark?", "yes" if number < 5 else "no")
        )
        said = (Message("user", f"<image>\n{question}"), Message("assistant", answer))
        conversation = Conversation(said, (image,), id=f"{self.name}:{index}")
        return Sample(conversation.id, {"conversation": conversation}, answers=self.source.answers or [answer], kind=kind)


class Talker:
    """Stub system with the verb ``generate``; it records its prompts in ``asked``."""

    encoders = {}

    name, device, processor = "talker", torch.device("cpu"), None

    def __init__(self, answer):
        self.answer, self.asked, self.options = answer, [], []
        self.head = SimpleNamespace(verbs=("generate",))

    def generate(self, prompts, **options):
        self.asked += prompts
        self.options.append(options)
        return [self.answer(prompt) for prompt in prompts]


def right_answer(prompt):
    """Return an answer computed from the last image: "yes" without an image, "thirteen" for a grey one."""
    if not prompt.images:
        return "yes"
    number = int(prompt.images[-1].mean()) // 10
    if "Which number" in prompt.messages[-1].text:
        return WORDS[number] if number < 10 else "thirteen"
    return "Yes." if number < 5 else "No."


@pytest.fixture(scope="session")
def talking():
    """Questions about squares, a stub system that answers them, and a correct answer."""
    return SimpleNamespace(Squares=Squares, Talker=Talker, right_answer=right_answer)

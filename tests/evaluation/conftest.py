"""Fixtures of evaluations: a trained system with data, an untrained classifier, and a stub system that answers by a function."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from zoo.processors.chat.messages import Conversation, Message
from zoo.registry import find_part
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


TEXTS = ["forty two and more words", "seven is a number here", "one hundred and nothing else"]


class Clips(Source):
    """Noise and what is said in it."""

    modalities, splits = ("audio", "text", "target"), ("train", "test")

    def split(self, name):
        return ClipsSplit()


class ClipsSplit(Split):
    def __len__(self):
        return 3

    def sample(self, index, generator=None):
        sound = np.random.default_rng(index).normal(size=6000).astype(np.float32) * 0.1
        return Sample(str(index), {"audio": (sound, 16000), "text": TEXTS[index], "target": TEXTS[-1 - index]})


class Judged(Source):
    """A better and a worse answer to each of three questions."""

    modalities, splits = ("conversation",), ("train", "test")

    def split(self, name):
        return JudgedSplit()


class JudgedSplit(Split):
    def __len__(self):
        return 6

    def sample(self, index, generator=None):
        said = (Message("user", f"What is number {index // 2}?"), Message("assistant", "a good answer" if index % 2 else "bad"))
        conversation = Conversation(said, id=str(index))
        return Sample(conversation.id, {"conversation": conversation}, label=index % 2, group=index // 2)


@pytest.fixture(scope="session")
def parts(classifier):
    """System and source of each evaluation, and keywords that keep it short."""
    made = {}

    def system(name, overrides=()):
        if (name, *overrides) not in made:
            made[name, *overrides] = zoo.create_system(name, list(overrides)).eval()
            made[name, *overrides].processor.fit([*TEXTS, "what is it? Yes no one two three"] * 3)
        return made[name, *overrides]

    def source(name, **words):
        return find_part("source", name)(**words)

    return {
        "zero_shot": lambda: (zoo.load("clip_vit_nano"), source("digits"), {"limit": 20, "cache": False}),
        "retrieval": lambda: (zoo.load("clip_vit_nano"), source("digits"), {"limit": 20}),
        "knn_probe": lambda: (zoo.load("clip_vit_nano"), source("digits"), {"limit": 20, "train_limit": 40}),
        "linear_probe": lambda: (zoo.load("clip_vit_nano"), source("digits"), {"C": 1.0, "limit": 20, "train_limit": 40}),
        "perplexity": lambda: (system("llava_nano"), source("digit_questions"), {"limit": 4}),
        "question_answering": lambda: (system("llava_nano"), source("digit_questions"), {"limit": 4, "max_new_tokens": 2}),
        "captioning": lambda: (system("llava_nano"), source("digit_pairs"), {"limit": 4, "max_new_tokens": 2}),
        "choice": lambda: (system("llava_nano"), source("digits"), {"limit": 4, "question": "which digit?"}),
        "in_context": lambda: (system("kosmos_nano"), source("digit_documents"), {"limit": 2, "num_examples": [0, 1]}),
        "raven": lambda: (system("kosmos_nano"), source("raven", size=16, layouts=["2x2"]), {"limit": 2}),
        "masked_lm": lambda: (system("bert_pretraining_nano", ["system.head.sequence=null"]), Clips(), {"limit": 3}),
        "asr": lambda: (system("whisper_nano"), Clips(), {"limit": 2, "temperatures": [0.0]}),
        "translation": lambda: (system("transformer_nano"), Clips(), {"limit": 2, "max_new_tokens": 3}),
        "tts": lambda: (system("tacotron2_nano"), Clips(), {"limit": 2, "max_seconds": 0.3}),
        "ranking": lambda: (system("reward_nano"), Judged(), {"limit": 4}),
        "classification": lambda: (classifier.eval(), source("digits"), {"limit": 20}),
    }

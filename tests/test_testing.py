"""Mistakes of an encoder's author: ``zoo.testing.check_encoder`` and ``zoo check`` answer each with one clear error."""

import jaxtyping
import pytest
import torch
from torch import nn

import zoo
import zoo.registry.construct as construct
from zoo.assembly.compose import compose
from zoo.errors import ContractError
from zoo.registry import parts
from zoo.testing import check_encoder
from zoo.types import Encoded, Encoder

DIM = 96
MISTAKES = {  # what an author got wrong -> the rule, what was found, the remedy
    "no modality": 'an encoder must say its modality, but it has none .*write modality = "image"',
    "wrong modality": "an encoder must say its modality, but it is 'picture' .expected: image, audio or text",
    "no dim": r"an encoder must say dim, the width of its tokens, but it has none .expected: an int of 1 or more.; set self\.dim",
    "no reads": r"forward takes x, mask and reads, but it takes x, mask .*write forward\(self, x, mask=None, \*, reads=",
    "a tensor": r"forward returns Encoded, but it returns a Tensor \[\d, 4, 96\]; return Encoded\(tokens, pooled, mask\)",
    "no pooled": r"gives_pooled is True, but pooled is None; set gives_pooled = False, or return \[\d, 96\]",
    "pooled unsaid": r"gives_pooled is False, but pooled is float32 \[\d, 96\]; set gives_pooled = True, or return None",
    "pooled width": r"pooled is \[batch, dim\], but pooled is \[\d, 97\]; return pooled \[\d, 96\]",
    "width": r"dim is 96, but tokens are \[\d, 4, 97\]; set self.dim = 97, or return tokens \[\d, N, 96\]",
    "two axes": r"tokens are \[batch, num_tokens, dim\], but they are \[\d, 96\]; return tokens \[\d, N, (96|dim)\]",
    "no image size": r"an encoder of image must say image_size, which its processor takes from it, but it has none .*set self.image_size",
    "mask shape": r"mask has one bool per token, but mask is bool \[\d, 5\]; return a bool tensor \[\d, 4\] that is True at real tokens",
    "mask type": r"mask has one bool per token, but mask is int64 \[\d, 4\]; return a bool tensor \[\d, 4\]",
}
DEEPER = {  # mistakes that need weights: ``check_encoder`` alone sees them
    "rows mixed": "an item alone gives what it gives in a batch, but they differ by",
    "features": r"from_features\(features\(x\)\) gives the pooled vectors of forward, but they differ by .*define both methods",
    "pooled alone": 'reads="pooled" gives the pooled vectors of reads="tokens", but they differ by',
    "counts": r"num_tokens\(length\) is the number of real tokens, but \[5, 5, 5\] for \[32, 32, 32\] .expected: \[4, 4, 4\]",
    "idle": r"every parameter gets a gradient, but idle of 1 get none .*name them in without_gradient=",
    "buffer": r"forward runs without weights, on the meta device, for zoo check, but .*; register tensors as buffers",
    "state": "saved and loaded weights give the same output, but they differ by .*register every tensor",
    "default": r"defaults are plain YAML values, but kind is <class 'int'>",
    "positional": r"constructor arguments are keywords only, but size is positional or keyword",
    "silent": r"silent_keywords are keywords of the constructor, but there is no \['num_head'\]",
}


class Swin(Encoder):
    """An encoder with the mistake that its constructor is given; without one it keeps the contract."""

    modality = "image"

    def __init__(self, *, mistake: str = ""):
        super().__init__()
        self.mistake, self.dim, self.image_size = mistake, DIM, 32
        self.project = nn.Conv2d(3, DIM, 16, 16)
        if mistake == "no dim":
            self.dim = 0
        if mistake in ("no modality", "wrong modality"):
            self.modality = "" if mistake == "no modality" else "picture"
        if mistake == "no image size":
            self.image_size = None
        self.gives_pooled = mistake != "pooled unsaid"
        self.hidden = torch.randn(DIM)
        if mistake == "idle":
            self.idle = nn.Parameter(torch.ones(1))

    def forward(self, x, mask=None, *, reads="tokens"):
        tokens = self.project(x).flatten(2).transpose(1, 2)
        if self.mistake == "rows mixed":
            tokens = tokens - tokens.mean((0, 1))
        if self.mistake in ("state", "buffer"):
            tokens = tokens + self.hidden
        real, pooled = torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device), tokens.mean(1)
        if self.mistake == "pooled alone" and reads == "pooled":
            pooled = pooled + 1
        wider = torch.cat([tokens, tokens[..., :1]], 2)
        return {
            "a tensor": lambda: tokens,
            "no pooled": lambda: Encoded(tokens, None, real),
            "pooled width": lambda: Encoded(tokens, wider.mean(1), real),
            "width": lambda: Encoded(wider, wider.mean(1), real),
            "two axes": lambda: Encoded(pooled, pooled, real),
            "mask shape": lambda: Encoded(tokens, pooled, real.new_ones(len(x), 5)),
            "mask type": lambda: Encoded(tokens, pooled, real.long()),
        }.get(self.mistake, lambda: Encoded(tokens, pooled, real))()

    def num_tokens(self, length):
        return 5 if self.mistake == "counts" else None

    def features(self, x, mask=None):
        return super().features(x, mask) + (self.mistake == "features")


class NoReads(Swin):
    def forward(self, x, mask=None):
        return super().forward(x, mask)


class Default(Swin):
    def __init__(self, *, kind=int):
        super().__init__()


class Positional(Swin):
    def __init__(self, size=1):
        super().__init__()


class Silent(Swin):
    silent_keywords = ("num_head",)


CLASSES = {"no reads": NoReads, "default": Default, "positional": Positional, "silent": Silent}


@pytest.fixture(autouse=True)
def as_in_production():
    """Turn the type checker of the tests off, which would answer for zoo."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def swin(monkeypatch):
    """Register a class as the encoder "swin"; returns how to build it."""

    def register(mistake):
        part = CLASSES.get(mistake, Swin)
        find = construct.find_part
        monkeypatch.setitem(parts._parts, ("encoder", "swin"), part)
        monkeypatch.setattr(construct, "find_part", lambda kind, name, *rest: part if name == "swin" else find(kind, name, *rest))
        return {"name": "swin"} if mistake in CLASSES else {"name": "swin", "mistake": mistake}

    return register


def config_of(encoder, system="clip_vit_nano"):
    config = compose("train", [f"system={system}", "data=digits"])
    config["system"]["encoders"]["image"] = encoder
    if encoder.get("mistake") == "pooled unsaid":  # heads that read pooled vectors refuse it before it runs
        config["system"]["head"] |= {"pool": "attention", "num_heads": 2}
    return config


def test_an_encoder_without_mistakes_passes_and_stays_as_it_was():
    encoder = Swin().train()
    before = encoder.project.weight.clone()
    check_encoder(encoder)
    assert encoder.training and torch.equal(encoder.project.weight, before) and encoder.project.weight.grad is None


@pytest.mark.parametrize("mistake", MISTAKES)
def test_check_encoder_names_each_mistake(mistake, swin):
    keywords = {k: v for k, v in swin(mistake).items() if k != "name"}
    with pytest.raises(ContractError, match=f"^encoder 'swin': {MISTAKES[mistake]}"):
        check_encoder(CLASSES.get(mistake, Swin)(**keywords))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_zoo_check_names_each_mistake(mistake, swin):
    config = config_of(swin(mistake), "classifier_vit_nano")
    with pytest.raises(ContractError, match=f"^system.encoders.image: encoder 'swin': {MISTAKES[mistake]}"):
        zoo.check(config)


@pytest.mark.parametrize("mistake", ["a tensor", "two axes", "no image size", "mask shape", "mask type"])
def test_zoo_check_names_mistakes_before_a_language_model(mistake, swin):
    config = config_of(swin(mistake), "llava_nano")
    message = MISTAKES[mistake].replace("forward returns", "patches returns")
    with pytest.raises(ContractError, match=f"encoder 'swin': {message}"):
        zoo.check(config)


@pytest.mark.parametrize("mistake", DEEPER)
def test_check_encoder_names_what_only_weights_show(mistake, swin):
    keywords = {k: v for k, v in swin(mistake).items() if k != "name"}
    encoder = CLASSES.get(mistake, Swin)(**keywords)
    if mistake == "state":  # its weights are saved with a config, from which it is built again
        encoder.remember({"encoder": {"name": "swin", "mistake": "state"}})
    with pytest.raises(ContractError, match=f"^encoder 'swin': {DEEPER[mistake]}"):
        check_encoder(encoder)


def test_a_text_encoder_that_reads_its_padding_is_named():
    encoder = zoo.create_model("bert_nano")
    forward = encoder.forward
    encoder.forward = lambda x, mask=None, *, reads="tokens": forward(x, torch.ones_like(mask))
    with pytest.raises(ContractError, match="encoder 'bert': padding changes nothing, but"):
        check_encoder(encoder)


def test_a_class_that_is_no_encoder_is_refused():
    with pytest.raises(ContractError, match="Linear: an encoder is a subclass of zoo.types.Encoder, but it is a"):
        check_encoder(nn.Linear(2, 2))


def test_an_error_says_part_rule_finding_expectation_and_remedy():
    error = ContractError(
        "encoder 'swin'", "gives_pooled is True", "pooled is None", "[B, 96]", "set gives_pooled = False, or return [B, 96]"
    )
    assert str(error) == "encoder 'swin': gives_pooled is True, but pooled is None; set gives_pooled = False, or return [B, 96]"
    assert (error.rule, error.wanted) == ("gives_pooled is True", "[B, 96]") and isinstance(error, zoo.ConfigError)
    assert zoo.testing.ContractError is ContractError

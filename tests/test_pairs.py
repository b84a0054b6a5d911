"""Every encoder with every head, by config alone: each pair trains one step or is refused with its reason.

The list of pairs is printed. It contains every registered part, so a new part needs no change here.
"""

import inspect
import itertools
from functools import cache

import pytest
import torch

import zoo
from zoo.assembly.compose import compose
from zoo.assembly.summary import nominal_input
from zoo.errors import ConfigError
from zoo.heads.replaced_tokens import REPLACED, ReplacedTokens
from zoo.registry import MODALITIES, find_part, rows
from zoo.types import MAGNITUDES, MASKED, MELS, PLACEHOLDER_IDS, SUPERVISED, TARGET_IDS, TEACHER, Batch

ENCODERS = [row for row in rows("encoder").values() if "nano" in row.name]
SHARES_WORDS = {"seq2seq": True}  # by head: the default of shared_words
HEADS = [  # without decoders that share the word table of one encoder: tests/test_compose.py has them in their systems
    row for row in rows("head").values() if "nano" in row.name and not row.arguments.get("shared_words", SHARES_WORDS.get(row.family))
]
PARTNERS = {"image": "vit_nano", "text": "text_nano"}  # for heads that need a second encoder


def system_config(encoder, head):
    """The encoder under its modality, and as many partners as the head asks for."""
    accepts = find_part("head", head.family).accepts
    encoders = {encoder.modality: encoder.name}
    partners = [m for m in ("text", "image") if m != encoder.modality and m in accepts.modalities]
    for modality in partners[: accepts.minimum - 1]:
        encoders[modality] = PARTNERS[modality]
    talks = "language" in inspect.signature(find_part("head", head.family)).parameters
    language = {"language": "llama_nano"} if talks else {}
    return {"name": f"{encoder.name} + {head.name}", "encoders": encoders, "head": head.name, **language}


def said_of(system, inputs):
    """Token ids of four conversations, each about one item, and which of them are learnt."""
    counts = {m: count(inputs[m][0]) for m, count in system.counts.items()}
    row = [5, *(PLACEHOLDER_IDS[m] for m, count in counts.items() for _ in range(count)), 7, 8, 9]
    token_ids = torch.tensor(row).expand(4, -1)
    return token_ids, torch.arange(len(row)).expand(4, -1) >= len(row) - 2


def one_step(system):
    inputs, masks = {}, {}
    for modality, encoder in system.encoders.items():
        x, mask = nominal_input(modality, encoder, 4)
        if modality == "audio" and system.head.language is not None:  # 30 s are more than a nano context takes
            longest = 100 if x.shape[1] > 1 else 2000  # a single row is sound itself
            x, mask = x[..., :longest], None if mask is None else mask[:, :longest]
        ids = torch.randint(0, min(250, encoder.vocab_size or 250), x.shape)
        inputs[modality] = torch.rand(x.shape) if x.is_floating_point() else ids
        masks |= {modality: torch.ones(mask.shape, dtype=torch.bool)} if mask is not None else {}
    targets = {"groups": torch.arange(4), "labels": torch.arange(4)}
    if system.head.language is not None:
        inputs["text"], targets[SUPERVISED] = said_of(system, inputs)
    if "transcript" in system.head.processors:
        inputs["text"] = torch.randint(0, system.head.vocab_size, (4, 6))
        targets[SUPERVISED] = torch.ones(4, 6, dtype=torch.bool)
    loss = system(Batch(inputs, masks, {**targets, **own_targets(system.head, inputs)})).loss
    loss.backward()
    assert all(p.grad is not None for p in system.parameters() if p.requires_grad), "a parameter gets no gradient"
    torch.optim.SGD(system.parameters(), lr=0.1).step()
    return loss.item()


def own_targets(head, inputs):
    """Return targets of heads other than groups and labels: teacher vectors, masked tokens, mels."""
    found = {TEACHER: torch.randn(4, head.teacher_dim)} if head.needs_teacher else {}
    if "reward" in head.verbs:
        found["groups"] = torch.zeros(4, dtype=torch.int64)  # four answers to one prompt
    if getattr(head, "masked_lm", None):
        found[MASKED] = inputs["text"]
    if "target_text" in head.processors:
        found |= {TARGET_IDS: torch.randint(0, head.vocab_size, (4, 6)), SUPERVISED: torch.ones(4, 6, dtype=torch.bool)}
    if isinstance(head, ReplacedTokens):
        found[REPLACED] = inputs["text"] % 3 == 0
    for name, size in ((MELS, "num_mels"), (MAGNITUDES, "num_bins")):
        if hasattr(head, size):
            found[name] = torch.rand(4, getattr(head, size), 6)
    return found


@cache
def on_meta(name):
    """An encoder without weights; one for all heads."""
    return zoo.create_model(name, device="meta")


def fits(encoder, head):
    """Return True if a head accepts the encoder's modality and the encoder pools where the head reads a pooled vector."""
    accepts = find_part("head", head.family).accepts
    pools = getattr(on_meta(encoder.name), "gives_pooled", True)
    if encoder.family == "htsat" and head.family in ("llava", "reward"):  # a grid of places, but their connector of sound halves the time
        return False
    return encoder.modality in accepts.modalities and (pools or not (accepts.reads == "pooled" or head.family == "classifier"))


def describe(encoder, head):
    try:
        system = zoo.create_system(system_config(encoder, head))
    except ConfigError as error:
        return f"{encoder.name:28} x {head.name:16} refused: {error}"
    return f"{encoder.name:28} x {head.name:16} trains, loss {one_step(system.train()):.3f}"


@pytest.mark.parametrize(("encoder", "head"), list(itertools.product(ENCODERS, HEADS)), ids=lambda row: row.name)
def test_every_pair_trains_a_step_or_is_refused_with_its_reason(encoder, head, tell):
    line = describe(encoder, head)
    tell(line)
    assert ("trains" in line) == fits(encoder, head), line


def test_the_pairs_cover_every_registered_part():
    assert {row.family for row in ENCODERS} == {row.family for row in rows("encoder").values()}
    assert {row.family for row in HEADS} == {row.family for row in rows("head").values()}
    assert {row.modality for row in ENCODERS} <= set(MODALITIES)


RUNS = {"image": [], "text": [], "audio": ["system=clap_whisper_nano", "data=speech", "data.source.path=."]}  # to swap an encoder in


@pytest.mark.parametrize("row", ENCODERS, ids=lambda row: row.name)
def test_the_same_swap_is_one_override_of_a_composed_run(row):
    words = [*RUNS[row.modality], f"encoder@system.encoders.{row.modality}={row.name}"]
    if row.modality == "text":  # the tokenizer's vocabulary is the encoder's
        encoder = on_meta(row.name)
        words += [f"system.processor.text.vocab_size={encoder.vocab_size}"]
        if not getattr(encoder, "gives_pooled", True):
            with pytest.raises(ConfigError, match="gives no pooled vector"):
                zoo.check(compose("train", words))
            return
    assert zoo.check(compose("train", words)).trainable > 0

"""Batches for every small system, with every target that its head reads."""

import numpy as np
import torch

from zoo.types import IGNORED, MASKED, TEACHER, TURNS, Sample

WORDS = ["a sentence number 0123456789", "and more", "what is it?"] * 3


def raw(number):
    generator = np.random.default_rng(number)
    pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return {"image": pixels, "audio": generator.normal(size=4000 + 800 * number).astype(np.float32) * 0.1}


def conversation(system, number, *, shows=True):
    shown = [{"type": modality, modality: raw(number)[modality]} for modality in system.encoders if shows]
    return [{"role": "user", "content": [*shown, "what is it?"]}, {"role": "assistant", "content": f"number {number}"}]


def ranked(items):
    """Targets of a reward head: pairs of answers to one prompt, the second one the better; of an odd number, the last prompt has three."""
    groups = (torch.arange(items) // 2).clamp(max=items // 2 - 1)
    return {"groups": groups, "labels": torch.arange(items) - 2 * groups}


def batch_of(system, numbers=range(3), *, texts_alone=()):
    """Return one item for each number; conversations of the numbers ``texts_alone`` have neither image nor audio."""
    system.processor.fit(WORDS)
    if system.head.language is not None:
        batch = system.processor(conversation=[conversation(system, number, shows=number not in texts_alone) for number in numbers])
        if "reward" in system.head.verbs:
            batch.targets |= ranked(len(numbers))
        return batch
    texts = {n: "a sentence number" + " and more" * (n % 3) for n in numbers}
    samples = [Sample(str(n), {**raw(n), "text": texts[n], "target": texts[n][:11]}, group=n, label=n % 2) for n in numbers]
    batch = system.processor.collate(samples, [system.processor.items(sample) for sample in samples])
    if system.head.needs_masking:
        batch.targets[MASKED] = torch.full_like(batch.inputs["text"], IGNORED)
        batch.targets[MASKED][:, 1:3] = batch.inputs["text"][:, 1:3]
    if system.head.needs_turns:
        batch.targets[TURNS] = (batch.targets[MASKED] != IGNORED).long().cumsum(1) * (batch.targets[MASKED] != IGNORED)
    if system.head.needs_teacher:
        batch.targets[TEACHER] = torch.randn(len(samples), system.head.teacher_dim)
    return batch

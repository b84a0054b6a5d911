"""Random batches that fit any nano system."""

import torch
from system_batches import ranked

from zoo.types import FRAMES, MAGNITUDES, MASKED, MELS, PLACEHOLDER_IDS, SUPERVISED, TURNS

AUDIO_FRAMES, SPEECH_FRAMES = 100, 24  # 30 s of audio would only take longer


def random_batch(system, items, *, padded=False):
    """A batch of the processor's shapes with repeated token ids; conversations hold one item each. Padded rows differ in length."""
    generator = torch.Generator().manual_seed(0)
    parts = system.processor.parts
    batch = system.processor.meta([*system.encoders, *(name for name in parts if name not in system.encoders)], items)
    if "audio" in system.encoders:
        batch.inputs["audio"] = batch.inputs["audio"][..., :AUDIO_FRAMES]
        batch.masks |= {"audio": batch.masks["audio"][:, :AUDIO_FRAMES]} if "audio" in batch.masks else {}

    def fill(tensor):
        if tensor.dtype == torch.bool:
            return torch.ones(tensor.shape, dtype=torch.bool)
        return (
            torch.rand(tensor.shape, generator=generator)
            if tensor.is_floating_point()
            else torch.randint(1, 20, tensor.shape, generator=generator)
        )

    batch = batch.map(fill)
    batch.targets |= {"groups": torch.arange(items), "labels": torch.arange(items) % 2}
    if "reward" in system.head.verbs:
        batch.targets |= ranked(items)
    if system.head.needs_masking:
        batch.targets[MASKED] = torch.where(torch.rand(batch.inputs["text"].shape, generator=generator) < 0.3, batch.inputs["text"], -100)
    if system.head.needs_turns:
        batch.targets[TURNS] = (batch.targets[MASKED] >= 0) * (1 + torch.rand(batch.inputs["text"].shape, generator=generator).argsort(1))
    if padded:
        batch.targets |= {name: batch.targets[name][..., :SPEECH_FRAMES] for name in (MELS, MAGNITUDES, FRAMES) if name in batch.targets}
        for name, mask in (*batch.masks.items(), *((n, batch.targets[n]) for n in (FRAMES, SUPERVISED) if n in batch.targets)):
            if name != SUPERVISED or system.head.language is None:
                mask &= lengths_to_mask((mask.shape[1] - 3 * torch.arange(items)).clamp(min=1), mask.shape[1])
    if system.head.language is not None:
        _fill_conversations(batch, system, items, padded)
    return batch


def lengths_to_mask(lengths, longest):
    return torch.arange(longest) < lengths[:, None]


def _fill_conversations(batch, system, items, padded):
    rows = [[5, *_placeholders(batch, system, row), 7, 8, 9, *((6,) * (row % 3) if padded else ())] for row in range(items)]
    lengths = torch.tensor([len(row) for row in rows])
    batch.inputs["text"] = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    batch.masks["text"] = lengths_to_mask(lengths, int(lengths.max()))
    batch.targets[SUPERVISED] = batch.masks["text"] & ~lengths_to_mask(lengths - 2, int(lengths.max()))


def _placeholders(batch, system, row):
    """The placeholders of a conversation's item: as many as the head makes tokens of its real frames."""
    for modality, count in system.counts.items():
        item, mask = batch.inputs[modality][row], batch.masks.get(modality)
        yield from (PLACEHOLDER_IDS[modality],) * count(item if mask is None else item[..., mask[row]])

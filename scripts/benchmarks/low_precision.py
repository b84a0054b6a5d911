"""Benchmarks of towers and text encoders in bf16 and int8 against zoo in float32, all with random weights."""

import copy
import random
from collections.abc import Callable

import torch
from benchmarks.images import LOW, relative
from benchmarks.job import Entry, Job
from torch import Tensor, nn

from zoo.assembly.create import create_model
from zoo.layers.low_precision.modes import set_precision

PROMPT_TOKENS = 12  # a caption of CLIP's prompts
SENTENCE_TOKENS = (8, 40)  # shortest and longest sentence


def pair(model: nn.Module, precision: str, inputs: tuple[Tensor, ...]) -> Job:
    """Return the job of an encoder in a precision against itself in float32."""
    low = set_precision(copy.deepcopy(model), precision)

    @torch.inference_mode()
    def run(chosen: nn.Module) -> Tensor:
        dtype = next(chosen.parameters()).dtype
        given = (x.to(dtype) if x.is_floating_point() else x for x in inputs)
        return chosen(*given, reads="pooled").pooled.float()

    return Job(lambda: run(model), lambda: run(low), lambda: relative(run(low), run(model)))


def clip_image(precision: str) -> Callable[[int], Job]:
    """Return the benchmark of the image tower of CLIP B/32 on ``size`` images."""
    return lambda size: pair(create_model("vit_base_patch32_clip_224"), precision, (torch.randn(size, 3, 224, 224),))


def clip_text(precision: str) -> Callable[[int], Job]:
    """Return the benchmark of the text tower of CLIP B/32 on ``size`` prompts without common beginnings."""

    def make(size: int) -> Job:
        ids = torch.randint(1, 49000, (size, PROMPT_TOKENS))
        ids[:, -1] = 49407  # the end symbol
        return pair(create_model("clip_vit_b32").encoders["text"], precision, (ids,))

    return make


def sentences(precision: str) -> Callable[[int], Job]:
    """Return the benchmark of MiniLM's architecture on ``size`` sentences of different lengths."""

    def make(size: int) -> Job:
        chooser = random.Random(0)
        lengths = [chooser.randint(*SENTENCE_TOKENS) for _ in range(size)]
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        model = create_model("minilm_l6")
        return pair(model, precision, (torch.randint(1000, 30000, mask.shape) * mask, mask))

    return make


ENTRIES = {
    f"{name}_{precision}": Entry(make(precision), size, f"zoo {label} fp32", LOW)
    for name, make, size, label in (
        ("clip_b32_image", clip_image, 32, "CLIP B/32 images"),
        ("clip_b32_text", clip_text, 80, "CLIP B/32 texts"),
        ("minilm", sentences, 32, "MiniLM"),
    )
    for precision in ("bf16", "int8")
}

"""Image-text benchmarks against open_clip."""

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.job import Entry, Job, need

from zoo.assembly.create import create_model
from zoo.interop.clip import open_clip as open_clip_weights
from zoo.losses import info_nce, sigmoid_loss
from zoo.storage.tensors import load_strictly
from zoo.training.optim import make_optimizer
from zoo.training.settings import TrainingSettings
from zoo.types import Batch


def contrastive_loss(size: int) -> Job:
    """Run InfoNCE forward and backward on ``size`` pairs of 512-dimensional vectors, with gradients of both sides and the temperature."""
    return _loss_job(need("open_clip.loss", "open_clip_torch").ClipLoss(), info_nce, size, 1 / 0.07)


def pairwise_sigmoid_loss(size: int) -> Job:
    """Run the SigLIP loss forward and backward on ``size`` pairs of 512-dimensional vectors, with gradients of temperature and bias."""
    return _loss_job(need("open_clip.loss", "open_clip_torch").SigLipLoss(), sigmoid_loss, size, 10.0, -10.0)


def _loss_job(peer: Callable[..., torch.Tensor], ours: Callable[..., torch.Tensor], size: int, *scalars: float) -> Job:
    values = [F.normalize(torch.randn(size, 512), dim=-1) for _ in range(2)] + [torch.tensor(value) for value in scalars]

    def run(loss: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        given = [value.clone().requires_grad_() for value in values]
        result = loss(*given)
        result.backward()
        return [result.detach(), *(tensor.grad for tensor in given)]

    def difference() -> float:
        return max((a - b).abs().max().item() for a, b in zip(run(peer), run(ours), strict=True))

    return Job(lambda: run(peer), lambda: run(ours), difference)


WORDS = """a the of on in with and two three man woman dog cat child bicycle table street wooden green bright standing riding
holding near beside behind large small old photograph kitchen beach mountain sitting people playing guitar umbrella""".split()


def captions(count: int) -> list[str]:
    """Return random captions of 8 to 20 words, the typical length of web captions."""
    chooser = random.Random(0)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(8, 20))) for _ in range(count)]


def clip_training_step(size: int) -> Job:
    """Run a training step of CLIP ViT-B/32 on ``size`` pairs: forward, loss, backward, AdamW, clamped temperature.

    open_clip pads captions to 77 tokens and uses the AdamW of its ``main.py``. zoo pads to the longest caption of the batch, as its text
    processor does, and uses the fused AdamW of its training loop.
    """
    open_clip = need("open_clip", "open_clip_torch")
    model = open_clip.create_model("ViT-B-32-quickgelu").train()
    system = create_model("clip_vit_b32").train()
    load_strictly(system, open_clip_weights.to_zoo(model.state_dict()), origin="open_clip")
    pixels, ids = torch.randn(size, 3, 224, 224), open_clip.get_tokenizer("ViT-B-32-quickgelu")(captions(size))
    batch = Batch({"image": pixels, "text": ids[:, : int(ids.argmax(1).max()) + 1]})  # the end symbol has the largest id
    settings = TrainingSettings(max_steps=1, batch_size=size, learning_rate=1e-6, weight_decay=0.2)
    loss, peer_optimizer, our_optimizer = open_clip.ClipLoss(), open_clip_adamw(model, settings), make_optimizer(system, settings)

    def peer() -> None:
        peer_optimizer.zero_grad()
        loss(*model(pixels, ids)).backward()
        peer_optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    def ours() -> None:
        our_optimizer.zero_grad()
        system(batch).loss.backward()
        our_optimizer.step()
        system.head.after_step()

    @torch.no_grad()
    def difference() -> float:
        (image, text, scale), found = model(pixels, ids), system(batch)
        pairs = [(image, found.outputs["image"]), (text, found.outputs["text"]), (loss(image, text, scale), found.loss)]
        return max((a - b).abs().max().item() for a, b in pairs)

    return Job(peer, ours, difference)


def zero_shot_classifier(size: int) -> Job:
    """Compute zero-shot classifier weights of CLIP ViT-B/32 for ``size`` ImageNet classes x 80 templates, from strings to unit vectors.

    open_clip runs as in its ``zero_shot_classifier``: ten classes per batch, all prompts padded to 77 tokens. Outputs are compared on the
    first ten classes, because the reference is slow.
    """
    open_clip = need("open_clip", "open_clip_torch")
    model = open_clip.create_model("ViT-B-32-quickgelu").eval()
    system = create_model("clip_vit_b32")
    load_strictly(system, open_clip_weights.to_zoo(model.state_dict()), origin="open_clip")
    tokenizer, templates = open_clip.get_tokenizer("ViT-B-32-quickgelu"), list(open_clip.OPENAI_IMAGENET_TEMPLATES)
    labels = sorted(set(open_clip.IMAGENET_CLASSNAMES))  # two of the 1000 classes have the same name
    labels = random.Random(0).sample(labels, min(size, len(labels)))
    plain = [str(template("{}")) for template in templates]  # the templates of open_clip are functions of the name

    def peer(names: list[str] = labels) -> torch.Tensor:
        return open_clip.build_zero_shot_classifier(model, tokenizer, names, templates)

    def ours(names: list[str] = labels) -> torch.Tensor:
        return system.class_vectors(names, plain)

    return Job(peer, ours, lambda: (peer(labels[:10]).T - ours(labels[:10])).abs().max().item())


def open_clip_adamw(model: torch.nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Return the optimizer of ``main.py`` in open_clip 3.3: two parameter groups by name and shape, default implementation of torch."""

    def is_gain_or_bias(name: str, parameter: torch.Tensor) -> bool:
        return parameter.ndim < 2 or any(word in name for word in ("bn", "ln", "bias", "logit_scale"))

    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if is_gain_or_bias(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in named if not is_gain_or_bias(name, p)], "weight_decay": settings.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=tuple(settings.betas), eps=settings.eps)


ENTRIES = {
    "contrastive_loss": Entry(contrastive_loss, 4096, "open_clip ClipLoss", 5e-6),
    "sigmoid_loss": Entry(pairwise_sigmoid_loss, 4096, "open_clip SigLipLoss", 5e-6),
    "zero_shot_classifier": Entry(zero_shot_classifier, 100, "open_clip, 80 templates", 1e-5, "clip_vit_b32"),
    "zero_shot_one_class": Entry(lambda size: zero_shot_classifier(1), 1, "open_clip, 80 templates", 1e-5),
    "clip_training_step": Entry(clip_training_step, 16, "open_clip ViT-B/32", 1e-4, "clip_vit_b32"),
}

"""Image encoder benchmarks: Vision Transformer against timm, Vision GNN against the published formulation.

After many blocks the float32 outputs of a Vision GNN cannot be compared, because one tie between neighbours changes them. The difference is
therefore computed on float64 copies.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks import naive_vig
from benchmarks.job import Entry, Job, need
from torch import Tensor, nn

from zoo.assembly.create import create_model
from zoo.interop import vig
from zoo.interop.vit import timm_vit
from zoo.layers.low_precision.modes import DTYPES, set_precision
from zoo.storage.tensors import load_strictly
from zoo.training.optim import make_optimizer
from zoo.training.settings import TrainingSettings
from zoo.types import Batch

LEARNING_RATE = 1e-6
SETTINGS = TrainingSettings(max_steps=1, batch_size=1, learning_rate=LEARNING_RATE, weight_decay=0.05)


def vit_pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Return a ViT of timm without classifier, and that of zoo with the same weights."""
    reference = need("timm", "timm").create_model(name, num_classes=0).eval()
    model = create_model(name)
    load_strictly(model, timm_vit.to_zoo(reference.state_dict()), origin="timm")
    return reference, model


def vit_forward(name: str) -> Callable[[int], Job]:
    """Return the benchmark of a forward pass of ``size`` images in float32."""

    def make(size: int) -> Job:
        reference, model = vit_pair(name)
        pixels = torch.randn(size, 3, 224, 224)

        @torch.inference_mode()
        def peer() -> Tensor:
            return reference(pixels)

        @torch.inference_mode()
        def ours() -> Tensor:
            return model(pixels).pooled

        return Job(peer, ours, lambda: (peer() - ours()).abs().max().item())

    return make


def classifier_step(model: nn.Module, logits: Callable[[], Tensor], labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Run a training step: forward, cross entropy, backward, update."""
    optimizer.zero_grad()
    F.cross_entropy(logits(), labels).backward()
    optimizer.step()


def vig_pair(name: str) -> tuple[naive_vig.NaiveViG, nn.Module]:
    """Return the published formulation of a Vision GNN and that of zoo with the same weights, both with 1000 classes."""
    reference = naive_vig.published(name).eval()
    system, state = create_model(f"classifier_{name}"), reference.state_dict()
    load_strictly(system.encoders["image"], vig.to_zoo(state, drop=vig.CLASSIFIER), origin="published")
    load_strictly(system.head, vig.classifier_to_zoo(state), origin="published")
    return reference, system


def vig_difference(reference: nn.Module, system: nn.Module) -> float:
    """Return the largest difference of the logits of float64 copies."""
    pixels = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.inference_mode():
        expected = copy.deepcopy(reference).double().eval()(pixels)
        return (copy.deepcopy(system).double().eval().logits(pixels) - expected).abs().max().item()


def vig_forward(name: str) -> Callable[[int], Job]:
    """Return the benchmark of a forward pass of ``size`` images through encoder and classifier."""

    def make(size: int) -> Job:
        reference, system = vig_pair(name)
        pixels = torch.randn(size, 3, 224, 224)

        @torch.inference_mode()
        def peer() -> Tensor:
            return reference(pixels)

        @torch.inference_mode()
        def ours() -> Tensor:
            return system.logits(pixels)

        return Job(peer, ours, lambda: vig_difference(reference, system))

    return make


def vig_training_step(name: str) -> Callable[[int], Job]:
    """Return the benchmark of a float32 training step on ``size`` images: forward, loss, backward, AdamW (fused in zoo)."""

    def make(size: int) -> Job:
        reference, system = vig_pair(name)
        far = vig_difference(reference, system)
        reference.train(), system.train()
        pixels, labels = torch.randn(size, 3, 224, 224), torch.randint(1000, (size,))
        batch = Batch({"image": pixels}, targets={"labels": labels})
        trained = [p for p in reference.parameters() if p.requires_grad]
        theirs, optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.05), make_optimizer(system, SETTINGS)

        def ours() -> None:
            optimizer.zero_grad()
            system(batch).loss.backward()
            optimizer.step()

        return Job(lambda: classifier_step(reference, lambda: reference(pixels), labels, theirs), ours, lambda: far)

    return make


def vit_precision(name: str, precision: str, *, peer: str) -> Callable[[int], Job]:
    """Return the benchmark of a forward pass of ``size`` images in a precision.

    Args:
        name: model.
        precision: of zoo.
        peer: "timm fp32", "timm bf16" or "zoo fp32".
    """

    def make(size: int) -> Job:
        reference, plain = vit_pair(name)
        model = set_precision(copy.deepcopy(plain), precision)
        library, word = peer.split()
        reference = (reference if library == "timm" else plain).to(DTYPES[word])
        pixels = torch.randn(size, 3, 224, 224)

        @torch.inference_mode()
        def run(chosen: nn.Module) -> Tensor:
            found = chosen(pixels.to(next(chosen.parameters()).dtype))
            return (found if isinstance(found, Tensor) else found.pooled).float()

        return Job(lambda: run(reference), lambda: run(model), lambda: relative(run(model), run(reference)))

    return make


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference by that of the expected tensor."""
    return float((found - expected).norm() / expected.norm())


LOW = 0.05  # relative difference of the pooled vectors in bf16 and int8; the models have random weights
ENTRIES = {
    "vit_base_forward": Entry(vit_forward("vit_base_patch16_224"), 8, "timm ViT-B/16", 1e-4),
    "vit_small_forward": Entry(vit_forward("vit_small_patch16_224"), 8, "timm ViT-S/16", 1e-4),
    "vit_base_int8": Entry(vit_precision("vit_base_patch16_224", "int8", peer="timm fp32"), 8, "timm ViT-B/16 fp32", LOW),
    "vit_small_int8": Entry(vit_precision("vit_small_patch16_224", "int8", peer="zoo fp32"), 8, "zoo ViT-S/16 fp32", LOW),
    "vit_base_bf16": Entry(vit_precision("vit_base_patch16_224", "bf16", peer="timm bf16"), 8, "timm ViT-B/16 bf16", LOW),
    "vit_small_bf16": Entry(vit_precision("vit_small_patch16_224", "bf16", peer="timm bf16"), 8, "timm ViT-S/16 bf16", LOW),
    "vig_forward": Entry(vig_forward("vig_tiny"), 32, "published ViG-Ti", 1e-9),
    "vig_training_step": Entry(vig_training_step("vig_tiny"), 8, "published ViG-Ti", 1e-9, "classifier_vig_tiny"),
    "pvig_forward": Entry(vig_forward("pvig_tiny"), 32, "published Pyramid ViG-Ti", 1e-9),
    "pvig_training_step": Entry(vig_training_step("pvig_tiny"), 8, "published Pyramid ViG-Ti", 1e-9, "classifier_pvig_tiny"),
}

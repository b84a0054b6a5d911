"""Images beside outside libraries: forward passes of ViT and of CLIP's image tower, a training step, and JPEG files to pixels."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.comparison import NOTE_FUSED, Candidate, Make, Row, cosine
from benchmarks.data import IMAGE_SIZE
from benchmarks.decode_jpeg import photos, ways
from benchmarks.images import LEARNING_RATE, SETTINGS, classifier_step, vit_pair
from benchmarks.job import need
from benchmarks.runtimes import Exported, onnxruntime_candidate, openvino_candidate
from torch import Tensor, nn

from zoo.assembly.create import create_model
from zoo.interop.clip import open_clip as open_clip_weights
from zoo.interop.vit import timm_vit
from zoo.layers.low_precision.cpu import has_bf16
from zoo.layers.low_precision.modes import DTYPES, set_precision
from zoo.processors.image import ImageProcessor
from zoo.storage.tensors import load_strictly
from zoo.training.optim import make_optimizer
from zoo.types import Batch

COSINE = "cosine to fp32"


def pooled(model: nn.Module, *inputs: Tensor) -> Tensor:
    """Return the vectors [n, dim] of an encoder."""
    return model(*inputs, reads="pooled").pooled


def projected(modality: str, system: Any, *inputs: Tensor) -> Tensor:
    """Return the unit vectors [n, dim] of one modality of a CLIP system."""
    return system.head.project(modality, system.encode_ready(modality, *inputs))


def encoder_candidates(
    reference: nn.Module,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    peer: str,
    own: Sequence[str],
    vectors: Callable[..., Tensor] = pooled,
    our_inputs: tuple[Tensor, ...] | None = None,
) -> list[Make]:
    """Return the makers for an encoder: the reference library, OpenVINO, onnxruntime, and zoo in its precisions.

    Args:
        reference: module of the peer; maps the inputs to vectors [n, dim].
        model: encoder or system of zoo with the same weights.
        inputs: of the reference and of other runtimes.
        peer: name of the reference library.
        own: precisions of the reference library itself.
        vectors: computes vectors [n, dim] by ``model``.
        our_inputs: of ``model``, where they are not those of the reference.
    """
    with torch.inference_mode():
        expected = reference(*inputs)
    exported = Exported(reference, *inputs)

    def quality(found: Any) -> float:
        return cosine(found, expected)

    def theirs(precision: str) -> Candidate:
        module = copy.deepcopy(reference).to(DTYPES[precision])
        given = cast(inputs, DTYPES[precision])

        @torch.inference_mode()
        def run() -> Tensor:
            return module(*given)

        return Candidate(peer, precision, run, lambda: quality(run()))

    runtimes = [openvino_candidate(exported, quality), onnxruntime_candidate(exported, "fp32", quality)]
    runtimes += [openvino_candidate(exported, quality, "bf16")] if has_bf16() else []  # other CPUs compute it in float32
    runtimes += [onnxruntime_candidate(exported, "int8", quality)]
    given = inputs if our_inputs is None else our_inputs
    zoo = [partial(ours, model, given, precision, vectors, quality) for precision in ("fp32", "bf16", "fp16", "int8")]
    return [*(partial(theirs, precision) for precision in own), *runtimes, *zoo]


def ours(
    model: nn.Module, inputs: tuple[Tensor, ...], precision: str, vectors: Callable[..., Tensor], quality: Callable[[Any], float]
) -> Candidate:
    """Return zoo's candidate for an encoder in a precision."""
    low = set_precision(copy.deepcopy(model), precision)
    given = cast(inputs, next(low.parameters()).dtype)

    @torch.inference_mode()
    def run() -> Tensor:
        return vectors(low, *given)

    return Candidate("zoo", precision, run, lambda: quality(run()))


def cast(inputs: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    """Return the inputs, those with fractions in a type."""
    return [x.to(dtype) if x.is_floating_point() else x for x in inputs]


def vit(name: str) -> Callable[[int], list[Make]]:
    """Return the row's makers of a forward pass of ``size`` images, with random weights of timm."""

    def make(size: int) -> list[Make]:
        need("timm", "timm")
        reference, model = vit_pair(name)
        return encoder_candidates(reference, model, (torch.randn(size, 3, 224, 224),), "timm", ("fp32", "bf16"))

    return make


def clip_image(size: int) -> list[Make]:
    """Return the makers of the image tower of CLIP ViT-B/32 on ``size`` images, with random weights of open_clip."""
    reference = need("open_clip", "open_clip_torch").create_model("ViT-B-32-quickgelu").eval()
    system = create_model("clip_vit_b32")
    load_strictly(system, open_clip_weights.to_zoo(reference.state_dict()), origin="open_clip")
    inputs = (torch.randn(size, 3, 224, 224),)
    return encoder_candidates(reference.visual, system.eval(), inputs, "open_clip", ("fp32",), partial(projected, "image"))


def training_step(name: str, precision: str) -> Callable[[int], list[Make]]:
    """Return the row's makers of a training step on ``size`` images of 1000 classes.

    All use the fused AdamW, and timm also torch's default one; "bf16" is autocast on both sides. The quality is the difference of the
    logits to timm's in fp32.
    """

    def make(size: int) -> list[Make]:
        reference = need("timm", "timm").create_model(name, num_classes=1000).train()
        system = create_model(f"classifier_{name}").train()
        state = reference.state_dict()
        load_strictly(system.encoders["image"], timm_vit.to_zoo(state, drop=timm_vit.CLASSIFIER), origin="timm")
        load_strictly(system.head, timm_vit.classifier_to_zoo(state), origin="timm")
        pixels, labels = torch.randn(size, 3, 224, 224), torch.randint(1000, (size,))
        batch = Batch({"image": pixels}, targets={"labels": labels})
        with torch.no_grad():
            expected = reference(pixels)

        def autocast() -> torch.autocast:
            return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

        def theirs(optimizer_name: str) -> Candidate:
            model = copy.deepcopy(reference)
            fused = optimizer_name == NOTE_FUSED
            optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05, fused=fused)

            def logits() -> Tensor:
                with autocast():
                    return model(pixels)

            return Candidate(
                "timm",
                precision,
                lambda: classifier_step(model, lambda: logits().float(), labels, optimizer),
                lambda: far(logits(), expected),
                optimizer_name,
            )

        def zoo() -> Candidate:
            optimizer = make_optimizer(system, SETTINGS)

            def outputs() -> Any:
                with autocast():
                    return system(batch)

            def run() -> None:
                optimizer.zero_grad()
                outputs().loss.backward()
                optimizer.step()

            return Candidate("zoo", precision, run, lambda: far(outputs().outputs["logits"], expected), NOTE_FUSED)

        return [partial(theirs, NOTE_FUSED), *([partial(theirs, "AdamW")] if precision == "fp32" else []), zoo]

    return make


@torch.no_grad()
def far(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference."""
    return float((found.float() - expected).abs().max())


def jpeg(size: int) -> list[Make]:
    """Return the makers of ``size`` photos of 1600 x 1200 from JPEG bytes to 224 x 224; the quality is the largest difference to PIL."""
    torchvision = need("torchvision.io", "torchvision")
    transforms = need("torchvision.transforms.v2.functional", "torchvision")
    files = photos()[:size]
    decoders: dict[str, Callable[[bytes], np.ndarray]] = ways(ImageProcessor(image_size=IMAGE_SIZE))

    def torchvision_alone(file: bytes) -> np.ndarray:
        pixels = torchvision.decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8))
        resized = transforms.resize(pixels, [IMAGE_SIZE], transforms.InterpolationMode.BICUBIC, antialias=True)
        return transforms.center_crop(resized, [IMAGE_SIZE]).permute(1, 2, 0).numpy()

    expected = np.stack([decoders["PIL"](file) for file in files]).astype(int)

    def candidate(name: str, decode: Callable[[bytes], np.ndarray]) -> Candidate:
        def run() -> np.ndarray:
            return np.stack([decode(file) for file in files])

        return Candidate(name, "uint8", run, lambda: float(np.abs(run() - expected).max()))

    return [partial(candidate, name, decode) for name, decode in ({"torchvision": torchvision_alone} | decoders).items()]


SMALL = "vit_small_patch16_224"
STEP = "training step of ViT S/16, batch {size}"
ROWS = {
    "vit_base": Row("ViT B/16, batch {size}", vit("vit_base_patch16_224"), 8, COSINE, card="vit"),
    "vit_small": Row("ViT S/16, batch {size}", vit(SMALL), 8, COSINE, card="vit"),
    "clip_image": Row("CLIP B/32, {size} images", clip_image, 32, COSINE, card="clip"),
    "training_step": Row(STEP, training_step(SMALL, "fp32"), 8, "difference", "{:.0e}", card="classifier"),
    "training_step_bf16": Row(f"{STEP}, autocast", training_step(SMALL, "bf16"), 8, "difference", "{:.0e}", 0.1, "classifier", rounds=2),
    "jpeg": Row("JPEG of 1600 x 1200 to 224 pixels, {size} photos", jpeg, 4, "grey levels off", "{:.0f}", 1.0),
}

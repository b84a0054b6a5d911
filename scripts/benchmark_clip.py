"""The public CLIP_benchmark command, extended to models of zoo: ``--model_type zoo --model RUN_OR_SAVED_MODEL``.

    python scripts/benchmark_clip.py eval --dataset mnist --dataset_root DATA --model local-dir:EXPORTED --pretrained none --no_amp
    python scripts/benchmark_clip.py eval --dataset mnist --dataset_root DATA --model_type zoo --model runs/R --pretrained none --no_amp

Architectures that open_clip also has can be exported (``zoo export M DIR --format open_clip``) and run without zoo; others (a Vision GNN, a
BERT text encoder) run through zoo. One bug is patched: clip-benchmark 1.6.2 converts one-element arrays to float, which numpy refuses
since 2.4. Needs: pip install clip-benchmark requests
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from clip_benchmark import cli
from clip_benchmark.metrics import zeroshot_classification
from clip_benchmark.models import MODEL_TYPES, TYPE2FUNC
from PIL import Image
from torch import Tensor

import zoo


class Model(torch.nn.Module):
    """Adapter of a system to the two methods that CLIP_benchmark calls."""

    def __init__(self, system: Any) -> None:
        super().__init__()
        self.system = system

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return unit vectors of processed pixels."""
        return self.system.embed("image", pixels)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Return unit vectors of token ids; the padding mask is derived from the ids."""
        return self.system.embed("text", token_ids)


def load_zoo(model_name: str, pretrained: str, cache_dir: str | None, device: str) -> tuple[Model, Any, Any]:
    """Return model, image transform and tokenizer, as CLIP_benchmark requires of a loader."""
    system: Any = zoo.load(model_name, device=device)
    image, text = system.processor["image"], system.processor["text"]

    def transform(raw: Image.Image) -> Tensor:
        return image([raw])[0][0]

    def tokenize(texts: Sequence[str]) -> Tensor:
        return text(list(texts))[0]

    return Model(system), transform, tokenize


def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[float]:
    """Return the top-k accuracies, as the function of clip_benchmark that this replaces."""
    hits = output.topk(max(topk), 1).indices == target[:, None]  # [N, k]
    return [hits[:, :k].any(1).float().mean().item() for k in topk]


def main() -> None:
    """Run the command with the additional model type."""
    TYPE2FUNC["zoo"] = load_zoo
    MODEL_TYPES.append("zoo")
    zeroshot_classification.accuracy = accuracy
    cli.main()


if __name__ == "__main__":
    sys.exit(main())

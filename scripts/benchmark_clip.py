"""The public CLIP_benchmark command, with zoo's own models beside open_clip's: ``--model_type zoo --model RUN_OR_SAVED_MODEL``.

    python scripts/benchmark_clip.py eval --dataset mnist --dataset_root DATA --model local-dir:EXPORTED --pretrained none --no_amp
    python scripts/benchmark_clip.py eval --dataset mnist --dataset_root DATA --model_type zoo --model runs/R --pretrained none --no_amp

Models that open_clip has too are exported (``zoo export M DIR --format open_clip``) and need nothing of ours; others (a Vision GNN, a
BERT as text tower) are measured as they are. One thing is mended: clip-benchmark 1.6.2 makes floats of arrays with one element,
which numpy refuses from 2.4 on. Needs: pip install clip-benchmark requests
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
    """A system with the two methods that CLIP_benchmark calls."""

    def __init__(self, system: Any) -> None:
        super().__init__()
        self.system = system

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Unit vectors of ready pixels."""
        return self.system.embed("image", pixels)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Unit vectors of ready ids, whose padding the processor finds."""
        return self.system.embed("text", token_ids)


def load_zoo(model_name: str, pretrained: str, cache_dir: str | None, device: str) -> tuple[Model, Any, Any]:
    """What CLIP_benchmark asks of a kind of model: model, transform of one image, tokenizer."""
    system: Any = zoo.load(model_name, device=device)
    image, text = system.processor["image"], system.processor["text"]

    def transform(picture: Image.Image) -> Tensor:
        return image([picture])[0][0]

    def tokenize(texts: Sequence[str]) -> Tensor:
        return text(list(texts))[0]

    return Model(system), transform, tokenize


def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[float]:
    """Share of items whose class is among the first k, as clip_benchmark's own."""
    hits = output.topk(max(topk), 1).indices == target[:, None]  # [N, k]
    return [hits[:, :k].any(1).float().mean().item() for k in topk]


def main() -> None:
    """Run the command with one kind of model more."""
    TYPE2FUNC["zoo"] = load_zoo
    MODEL_TYPES.append("zoo")
    zeroshot_classification.accuracy = accuracy
    cli.main()


if __name__ == "__main__":
    sys.exit(main())

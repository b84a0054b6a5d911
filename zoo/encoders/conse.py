"""Semantic embeddings of a classifier: the likeliest class names, weighted by their probabilities, in the space of a text encoder.

Paper: Norouzi et al. 2013, "Zero-shot learning by convex combination of semantic embeddings" (ConSE, arXiv 1312.5650), equation 3.

Where we differ: the vector keeps its length, which is near 1 for a sure classifier and shorter for classes of different meaning. A cosine
does not depend on it, and a fusion (``zoo.encoders.fusion``) may read it as confidence. The classifier may be of any modality.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.errors import ConfigError
from zoo.registry import register
from zoo.registry.construct import build_part
from zoo.types import Encoded, Encoder, EncoderSpec, encode


@register("encoder")
class ConSE(Encoder):
    """Encoder whose pooled vector lies in the space of a text encoder, without training on pairs of inputs and texts.

    ``zoo.assembly.joined.semantic_encoder`` makes one of any classifier and any text encoder.

    Args:
        encoder: config of the classifier's encoder.
        head: config of its head, a ``classifier``.
        dim: width of the text encoder's vectors.
        top_k: number of the likeliest classes that count; 10 in the paper's tables 1 and 2.
        temperature: divides the logits; above 1 spreads the weight over more classes.

    Raises:
        ConfigError: a number is outside its range, or the parts do not fit.
    """

    silent_keywords = ("top_k", "temperature")
    class_vectors: Tensor

    def __init__(
        self, *, encoder: Mapping[str, Any], head: Mapping[str, Any], dim: int = 384, top_k: int = 10, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if top_k < 1 or temperature <= 0:
            raise ConfigError(f"top_k: {top_k}, temperature: {temperature}; allowed are a top_k of 1 or more and a temperature above 0")
        self.encoder: Encoder = build_part("encoder", encoder, "encoder")
        self.modality, self.dim, self.top_k, self.temperature = self.encoder.modality, dim, top_k, temperature
        self.head = build_part("head", head, "head", inputs={self.modality: EncoderSpec.of(self.encoder)})
        if self.head.num_classes < 2 or "logits" not in self.head.verbs:
            raise ConfigError(f"head.name: {head.get('name')!r} has no classes; allowed is a classifier (name: classifier)")
        # A buffer: the names' vectors travel with the weights, so that the text encoder is needed only once.
        self.register_buffer("class_vectors", F.normalize(torch.randn(self.head.num_classes, dim), dim=-1))
        self.image_size, self.num_mels = self.encoder.image_size, self.encoder.num_mels
        self.context_length, self.vocab_size = self.encoder.context_length, self.encoder.vocab_size

    @property
    def preprocessing(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Preprocessing of the classifier."""
        return self.encoder.preprocessing

    def probabilities(self, x: Tensor, mask: Bool[Tensor, "batch ..."] | None = None) -> Float[Tensor, "batch num_classes"]:
        """Return the classifier's probabilities."""
        encoded = encode(self.encoder, x, mask, reads=self.head.reads[0])
        return (self.head.project(encoded) / self.temperature).softmax(-1)

    def forward(self, x: Tensor, mask: Bool[Tensor, "batch ..."] | None = None, *, reads: str = "tokens") -> Encoded:
        """Encode to one token, which is the pooled vector [batch, dim]."""
        shares, classes = self.probabilities(x, mask).topk(min(self.top_k, self.head.num_classes))  # [batch, top_k]
        shares = (shares / shares.sum(1, keepdim=True)).to(self.class_vectors.dtype)
        return Encoded.of_pooled((shares.unsqueeze(-1) * self.class_vectors[classes]).sum(1))

    def with_names(self, vectors: Sequence[Sequence[float]] | Tensor) -> "ConSE":
        """Set the vectors of the class names, in the order of the logits; their lengths become 1.

        Raises:
            ConfigError: the shape is not [num_classes, dim].
        """
        given, wanted = torch.as_tensor(vectors), list(self.class_vectors.shape)
        if list(given.shape) != wanted:
            raise ConfigError(f"class_vectors: got shape {list(given.shape)}; expected is one vector per class: {wanted}")
        self.class_vectors.copy_(F.normalize(given.to(self.class_vectors), dim=-1))
        return self

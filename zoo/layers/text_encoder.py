"""Base classes of text encoders: outputs of blocks inside them, and the product with their word embedding."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.layers.intermediates import block_outputs, refuse_map
from zoo.types import Encoder


class TextEncoder(Encoder):
    """Encoder of token ids whose blocks, by default ``self.blocks``, run one after the other on padded rows."""

    modality = "text"
    blocks: nn.ModuleList

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Blocks in the order in which they run."""
        return list(self.blocks)

    @property
    def final_norm(self) -> nn.Module | None:
        """Norm after the last block, by default ``self.norm``; None if the outputs of blocks are normalised already."""
        return cast(nn.Module | None, self.norm)

    def intermediates(
        self,
        x: Int[Tensor, "batch length"],
        layers: Sequence[int] | None = None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
        normalise: bool = False,
        output: str = "tokens",
    ) -> list[Tensor]:
        """Return the outputs of the chosen blocks. See ``Encoder``."""
        refuse_map(output, "text")
        found, norm = block_outputs(self, self.layers, x, mask, layers), self.final_norm
        return [norm(each) for each in found] if normalise and norm is not None else found


class WordEncoder(TextEncoder):
    """Text encoder whose word embedding also scores words: masked language modelling, and decoders that share the table."""

    embedding: nn.Embedding

    def word_logits(self, vectors: Float[Tensor, "*tokens word_dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Return the products with the word embedding, without a bias."""
        return F.linear(vectors, self.embedding.weight)

"""Text encoder of the first Tacotron: embedded characters, a pre-net with dropout, CBHG.

Paper: Wang et al. 2017 (arXiv 1703.10135), section 3.2 and table 1. Reference: keithito/tacotron ``tacotron.py``.

Where we differ: padding changes nothing (see ``zoo.layers.cbhg``).
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from zoo.layers.cbhg import CBHG
from zoo.layers.masked_conv import all_or_mask
from zoo.layers.prenet import Prenet
from zoo.registry import register
from zoo.types import Encoded


@register("encoder")
class CbhgEncoder(nn.Module):
    """Token ids to one vector for each character; there is no pooled vector.

    Args:
        context_length: the most characters that the processor lets through; the encoder itself takes any number.
        embedding_dim: of a character, and of the pre-net's first layer.
        hidden_dim: of the pre-net's second layer, the convolutions, and each direction of the GRU.
        bank: widest kernel of the bank of convolutions.
    """

    modality = "text"
    gives_pooled = False
    preprocessing = {"tokenizer": "given"}  # a system says which symbols they are; there are fewer than a tokenizer needs

    def __init__(
        self,
        *,
        vocab_size: int = 38,
        context_length: int = 512,
        embedding_dim: int = 256,
        hidden_dim: int = 128,
        bank: int = 16,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.vocab_size, self.context_length, self.dim = vocab_size, context_length, 2 * hidden_dim
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.prenet = Prenet(embedding_dim, (embedding_dim, hidden_dim), dropout=dropout, bias=True)
        self.cbhg = CBHG(in_dim=hidden_dim, bank=bank, dim=hidden_dim, projections=(hidden_dim, hidden_dim))
        nn.init.trunc_normal_(self.embedding.weight, std=0.5)  # keithito

    def forward(self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None) -> Encoded:
        """``mask`` is True at real characters, at the left of each row; without one every position is real."""
        real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
        return Encoded(self.cbhg(self.prenet(self.embedding(token_ids)), all_or_mask(mask)), None, real)

"""Text encoder of the first Tacotron: embedded characters, a pre-net with dropout, CBHG.

Paper: Wang et al. 2017 (arXiv 1703.10135), section 3.2 and table 1. Reference: keithito/tacotron ``tacotron.py``.

Where we differ: padding does not influence the result (see ``zoo.layers.cbhg``).
"""

from jaxtyping import Bool, Int
from torch import Tensor, nn

from zoo.layers.cbhg import CBHG
from zoo.layers.masked_conv import all_or_mask
from zoo.layers.prenet import Prenet
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real


@register("encoder")
class CbhgEncoder(Encoder):
    """Text encoder with one output vector of width ``2 * hidden_dim`` per character and no pooled vector.

    Args:
        vocab_size: number of symbols in the embedding table.
        context_length: maximum number of characters that the processor accepts; the encoder itself has no limit.
        embedding_dim: width of the embedding and of the pre-net's first layer.
        hidden_dim: width of the pre-net's second layer, the convolutions, and each direction of the GRU.
        bank: largest kernel size of the convolution bank, which has one convolution of each size from 1 to this.
        dropout: dropout rate after each pre-net layer.
    """

    modality = "text"
    gives_pooled = False
    # Each system config names its symbol table. A trained tokenizer cannot be the default: 38 rows are fewer than its minimum.
    preprocessing = {"tokenizer": "given"}

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
        nn.init.trunc_normal_(self.embedding.weight, std=0.5)  # the value of keithito/tacotron

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode characters to tokens [batch, length, 2 * hidden_dim].

        Args:
            mask: True at real characters, which must be at the left of each row; None if there is no padding.
        """
        real = all_real(token_ids.shape, token_ids.device) if mask is None else mask
        # all_or_mask gives None if every position is real, which allows the faster unmasked path.
        return Encoded(self.cbhg(self.prenet(self.embedding(token_ids)), all_or_mask(mask)), None, real)

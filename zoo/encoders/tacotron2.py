"""Text encoder of Tacotron 2: embedded characters, three convolutions, one bidirectional LSTM.

Paper: Shen et al. 2017 (arXiv 1712.05884), section 2.2. References: torchaudio ``models/tacotron2.py``, NVIDIA/tacotron2 ``model.py``.

Where we differ: padding does not influence the result. Padded positions are set to zero before each convolution and are excluded from the
BatchNorm statistics, so a text gives the same tokens in every batch. In the references, the convolutions carry the embedding of the
padding symbol into the last characters of shorter texts.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.masked_conv import BidirectionalRNN, ConvNorm, all_or_mask
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real


@register("encoder")
class Tacotron2Encoder(Encoder):
    """Text encoder with one output vector per character and no pooled vector.

    Args:
        vocab_size: number of symbols in the embedding table.
        context_length: maximum number of characters that the processor accepts; the encoder itself has no limit.
        dim: width of the embedding, the convolutions and the tokens; each LSTM direction has width ``dim / 2``.
        depth: number of convolutions.
        kernel: kernel size of the convolutions, in characters.
        dropout: dropout rate after each convolution.

    Raises:
        ConfigError: ``dim`` is odd or ``kernel`` is even.
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
        dim: int = 512,
        depth: int = 3,
        kernel: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if dim % 2 or not kernel % 2:
            raise ConfigError(f"dim: {dim}, kernel: {kernel}; allowed are an even dim (each LSTM direction has half) and an odd kernel")
        self.vocab_size, self.context_length, self.dim = vocab_size, context_length, dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.convolutions = nn.ModuleList(ConvNorm(dim, dim, kernel, activation="relu", dropout=dropout) for _ in range(depth))
        self.lstm = BidirectionalRNN(nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True))
        nn.init.xavier_uniform_(self.embedding.weight)  # NVIDIA's: uniform within sqrt(6 / (vocab_size + dim))

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode characters to tokens [batch, length, dim].

        Args:
            mask: True at real characters, which must be at the left of each row; None if there is no padding.
        """
        real = all_real(token_ids.shape, token_ids.device) if mask is None else mask
        valid = all_or_mask(mask)  # None if every position is real, which allows the faster unmasked path
        x: Float[Tensor, "batch length dim"] = self.embedding(token_ids)
        x = (x if valid is None else x * valid[..., None]).transpose(1, 2)  # [B, dim, length]
        for convolution in self.convolutions:
            x = convolution(x, valid)
        return Encoded(self.lstm(x.transpose(1, 2), valid), None, real)

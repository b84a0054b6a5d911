"""Text encoder of Tacotron 2: embedded characters, three convolutions, one bidirectional LSTM.

Paper: Shen et al. 2017 (arXiv 1712.05884), section 2.2. References: torchaudio ``models/tacotron2.py``, NVIDIA/tacotron2 ``model.py``.

Where we differ: padding. It is zero in front of each convolution and counts in no BatchNorm statistics, so that a text gives the same
tokens whatever it is batched with. In the references the embedding of the padding symbol reaches the last characters of shorter texts.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.masked_conv import BidirectionalRNN, ConvNorm, all_or_mask
from zoo.registry import register
from zoo.types import Encoded


@register("encoder")
class Tacotron2Encoder(nn.Module):
    """Token ids to one vector for each character; there is no pooled vector.

    Args:
        context_length: the most characters that the processor lets through; the encoder itself takes any number.
        dim: of embedding, convolutions and tokens; each direction of the LSTM has half of it.
        depth: number of convolutions.
        kernel: characters that a convolution sees.

    Raises:
        ConfigError: an odd width, or an even kernel.
    """

    modality = "text"
    gives_pooled = False
    preprocessing = {"tokenizer": "given"}  # a system says which symbols they are; there are fewer than a tokenizer needs

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
            raise ConfigError(f"dim: {dim}, kernel: {kernel}; allowed are an even width, half of it for each direction, and an odd kernel")
        self.vocab_size, self.context_length, self.dim = vocab_size, context_length, dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.convolutions = nn.ModuleList(ConvNorm(dim, dim, kernel, activation="relu", dropout=dropout) for _ in range(depth))
        self.lstm = BidirectionalRNN(nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True))
        nn.init.xavier_uniform_(self.embedding.weight)

    def forward(self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None) -> Encoded:
        """``mask`` is True at real characters, at the left of each row; without one every position is real."""
        real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
        seen = all_or_mask(mask)
        x: Float[Tensor, "batch length dim"] = self.embedding(token_ids)
        x = (x if seen is None else x * seen[..., None]).transpose(1, 2)  # [B, dim, length]
        for convolution in self.convolutions:
            x = convolution(x, seen)
        return Encoded(self.lstm(x.transpose(1, 2), seen), None, real)

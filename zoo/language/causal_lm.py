"""Decoder-only language model: the LLaMA family (LLaMA, Mistral, SmolLM2) and the GPT family (GPT-2).

Papers: Radford et al. 2019 (GPT-2); Touvron et al. 2023 (LLaMA, arXiv 2302.13971, and LLaMA 2, arXiv 2307.09288); Jiang et al. 2023
(Mistral, arXiv 2310.06825). References: transformers 5.17 ``GPT2LMHeadModel``, ``LlamaForCausalLM``, ``MistralForCausalLM``.

Where we differ: one matrix projects to queries, keys and values, and one to gate and value of the feed-forward part; there is no
dropout; both families use GPT-2's initialisation, which shrinks residual outputs with depth; the attention window counts real tokens,
so that padding changes nothing.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.decoder import DecoderBlock
from zoo.layers.decoder_only import DecoderOnly
from zoo.layers.linear import Linear
from zoo.layers.norm import build_norm
from zoo.layers.rope import Rotary, Turn
from zoo.registry import register

POSITIONS = ("rotary", "learned")


@register("language")
class CausalLM(DecoderOnly):
    """Causal language model: maps token ids or embedding vectors to hidden states; ``logits`` scores the next token.

    Args:
        context_length: maximum number of tokens of a text; with learned positions also the size of their table.
        num_kv_heads: number of key and value heads (grouped-query attention); None means ``num_heads``.
        head_dim: width of each head; None means ``dim / num_heads``.
        hidden_dim: width of the feed-forward layers; None means 4 * ``dim``.
        norm: "rms" or "layer".
        positions: "rotary" or "learned".
        rope_scaling: see ``zoo.layers.rope.Rotary``.
        activation: activation of the feed-forward layers; "swiglu" adds a third matrix for the gate.
        bias: use biases in all linear layers except the output layer.
        window: size of the attention window in tokens, including the token itself; None attends to all previous tokens.
        tied: compute logits with the token embedding matrix instead of a separate output matrix.

    Raises:
        ConfigError: an unknown option, or widths and numbers of heads that do not fit together.
        DataError: (forward) a text is longer than ``context_length``.
    """

    silent_keywords = (
        *("num_heads", "num_kv_heads", "head_dim", "eps", "rope_theta", "rope_scaling"),
        *("window", "activation", "positions", "norm"),
    )
    no_weight_decay = ("positions",)  # read by zoo.training.optim: position embeddings are 2-D but are not decayed

    def __init__(
        self,
        *,
        vocab_size: int = 32_000,
        context_length: int = 2048,
        dim: int = 4096,
        depth: int = 32,
        num_heads: int = 32,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        hidden_dim: int | None = None,
        norm: str = "rms",
        eps: float = 1e-5,
        positions: str = "rotary",
        rope_theta: float = 10_000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        activation: str = "swiglu",
        bias: bool = False,
        window: int | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        _refuse_sizes(dim, num_heads, head_dim, positions, window)
        self.dim, self.vocab_size, self.context_length, self.window = dim, vocab_size, context_length, window
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        # head_dim is a separate setting because some models (Mistral Nemo) do not have num_heads * head_dim == dim.
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        sizes: dict[str, Any] = {
            "num_heads": num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_dim": hidden_dim or 4 * dim,
        }
        self.embedding = nn.Embedding(vocab_size, dim)
        learned = positions == "learned"
        self.positions = nn.Parameter(torch.empty(context_length, dim)) if learned else None
        self.rotary = None if learned else Rotary(head_dim=self.head_dim, theta=rope_theta, scaling=rope_scaling)
        self.blocks = nn.ModuleList(
            DecoderBlock(dim=dim, **sizes, activation=activation, norm=norm, eps=eps, bias=bias) for _ in range(depth)
        )
        self.norm = build_norm(norm, dim, eps)
        # If tied, logits() multiplies by embedding.weight, so that the state dict holds the matrix only once.
        self.lm_head = None if tied else Linear(dim, vocab_size, bias=False)
        self._initialise()

    def place(self, x: Float[Tensor, "*tokens dim"], places: Int[Tensor, "*#tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Add learned position embeddings if the model has them."""
        return x if self.positions is None else x + F.embedding(places, self.positions)  # not an index: its gradient depends on threads

    def rotation(self, places: Int[Tensor, "*#tokens"]) -> Turn | None:
        """Return the rotary rotation of these positions, or None with learned positions."""
        return None if self.rotary is None else Turn(*self.rotary.tables(places))

    def _initialise(self) -> None:
        """Initialise as GPT-2: normal with std 0.02; outputs into the residual stream are divided by sqrt(2 * depth)."""
        # 2 * depth branches add to the residual stream; this factor keeps its variance independent of depth.
        residual = 0.02 * (2 * max(len(self.blocks), 1)) ** -0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                shrinks = name.endswith((".attention.out", ".mlp.fc2"))
                nn.init.normal_(module.weight, std=residual if shrinks else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)


def _refuse_sizes(dim: int, num_heads: int, head_dim: int | None, positions: str, window: int | None) -> None:
    if positions not in POSITIONS:
        raise ConfigError(f"positions: there is no {positions!r}; {name_choices(positions, POSITIONS)}")
    if num_heads < 1 or (head_dim is None and dim % num_heads):
        # Suggest only heads of at least 8 dimensions; narrower ones are legal, but not useful.
        legal = [n for n in range(1, dim + 1) if dim % n == 0 and dim // n >= 8]
        raise ConfigError(f"num_heads: {num_heads} does not divide dim {dim}; use one of {legal}, or set head_dim")
    if head_dim is not None and head_dim < 1:
        raise ConfigError(f"head_dim: got {head_dim}; allowed is a whole number above 0")
    if window is not None and window < 1:
        raise ConfigError(f"window: got {window}; allowed is a whole number above 0, or null for no window")

"""Decoder-only language model: LLaMA and its relatives (Mistral, Mixtral, SmolLM2, Qwen 2, 3, Gemma, Phi-3, 4) and GPT-1, -2, -3, -Neo.

Papers: Radford et al. 2018 (GPT-1) and 2019 (GPT-2); Brown et al. 2020 (GPT-3, arXiv 2005.14165); Touvron et al. 2023 (LLaMA, arXiv
2302.13971, and LLaMA 2, arXiv 2307.09288); Jiang et al. 2023 (Mistral, arXiv 2310.06825); Qwen 2 (arXiv 2407.10671); Qwen 3 (arXiv
2505.09388); Gemma 2 (arXiv 2408.00118); Gemma 3 (arXiv 2503.19786); Phi-3 (arXiv 2404.14219); DeepStack: Meng et al. 2024 (arXiv
2406.04334). References: the ``...ForCausalLM`` of transformers 5.17 that ``zoo.interop.causal_lm`` names.

Where we differ: one matrix projects to queries, keys and values, and one to gate and value of the feed-forward part; there is no
dropout; all use GPT-2's initialisation, which shrinks residual outputs with depth; the attention window counts real tokens, so that
padding changes nothing.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.decoder import CausalAttention, DecoderBlock, PostNormDecoderBlock
from zoo.layers.decoder_only import DecoderOnly
from zoo.layers.experts import Experts, expert_losses
from zoo.layers.linear import Linear
from zoo.layers.mlp import feed_forward
from zoo.layers.norm import build_norm
from zoo.layers.rope import Rotary, Turn
from zoo.registry import register

POSITIONS = ("rotary", "learned")
NORM_PLACES = ("before", "after")


@register("language")
class CausalLM(DecoderOnly):
    """Causal language model: maps token ids or embedding vectors to hidden states; ``logits`` scores the next token.

    Args:
        context_length: maximum number of tokens of a text; with learned positions also the size of their table.
        num_kv_heads: number of key and value heads (grouped-query attention); None means ``num_heads``.
        head_dim: width of each head; None means ``dim / num_heads``.
        hidden_dim: width of the feed-forward layers; None means 4 * ``dim``.
        norm: "rms", "layer", or "rms_offset" (the factor is one plus the weight, Gemma).
        norm_place: "before" normalises the input of each branch and the output of the last block, "after" the sum with each branch (GPT-1).
        post_norms: normalise the output of each branch too, before it is added (Gemma 2 and 3).
        qk_norm: normalise each head of queries and keys before the rotation (Qwen 3, Gemma 3).
        positions: "rotary" or "learned".
        rope_scaling: see ``zoo.layers.rope.Rotary``.
        rotary_share: part of each head's channels that is rotated.
        rope_sections: number of pairs of channels that turn by time, row and column (M-RoPE, Qwen2-VL: [16, 24, 24]); None has one axis.
        rope_interleaved: the sections take turns (Qwen3-VL); see ``zoo.layers.rope.Rotary``.
        deepstack: number of first layers behind which further vectors of pictures are added (DeepStack, Qwen3-VL: 3).
        window_rope_theta: theta of layers with a window, without scaling (Gemma 3); None: as in the other layers.
        activation: activation of the feed-forward layers; "swiglu" and "geglu_tanh" add a third matrix for the gate.
        bias: use biases in all linear layers except the output layer.
        qkv_bias: bias of the projection to queries, keys and values; None: as ``bias``. Qwen 2 has only this one, GPT-Neo all others.
        window: size of the attention window in tokens, including the token itself; None attends to all previous tokens. A list gives the
            windows of the layers and is repeated: [4096, null] has a window in layers 0, 2, 4, ... (Gemma 2), [null, 256] in layers 1, 3,
            5, ... (GPT-3).
        attention_scale: factor on the scores; None takes head_dim ** -0.5.
        attention_cap: soft limit of the scores (Gemma 2: 50); None: no limit.
        logit_cap: soft limit of the logits (Gemma 2: 30); None: no limit.
        embed_scale: factor on the embeddings of tokens (Gemma: sqrt(dim)).
        tied: compute logits with the token embedding matrix instead of a separate output matrix.
        num_experts: number of feed-forward networks in each layer, of which each token uses some (Mixtral: 8); None: one for all tokens.
        experts_per_token: number of experts that compute each token.
        renormalise_experts: scale the weights of a token's experts to sum to one; false with one expert per token (Switch).
        expert_capacity: limit on the tokens of one expert in training, see ``zoo.layers.experts``; None: no limit.
        balance_weight: weight of the loss that balances the use of the experts (Switch: 0.01, Mixtral's files: 0.001).
        router_z_weight: weight of the loss on large logits of the router (ST-MoE: 0.001).

    Raises:
        ConfigError: an unknown option, or widths and numbers of heads that do not fit together.
        DataError: (forward) a text is longer than ``context_length``.
    """

    silent_keywords = (
        *("num_heads", "num_kv_heads", "head_dim", "eps", "rope_theta", "rope_scaling"),
        *("window", "activation", "positions", "norm", "rotary_share", "window_rope_theta"),
        *("attention_scale", "attention_cap", "logit_cap", "embed_scale", "experts_per_token", "renormalise_experts"),
        *("rope_sections", "rope_interleaved", "deepstack"),
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
        norm_place: str = "before",
        eps: float = 1e-5,
        post_norms: bool = False,
        qk_norm: bool = False,
        positions: str = "rotary",
        rope_theta: float = 10_000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        rotary_share: float = 1.0,
        rope_sections: Sequence[int] | None = None,
        rope_interleaved: bool = False,
        deepstack: int = 0,
        window_rope_theta: float | None = None,
        activation: str = "swiglu",
        bias: bool = False,
        qkv_bias: bool | None = None,
        window: int | Sequence[int | None] | None = None,
        attention_scale: float | None = None,
        attention_cap: float | None = None,
        logit_cap: float | None = None,
        embed_scale: float = 1.0,
        tied: bool = False,
        num_experts: int | None = None,
        experts_per_token: int = 2,
        renormalise_experts: bool = True,
        expert_capacity: float | None = None,
        balance_weight: float = 0.0,
        router_z_weight: float = 0.0,
    ) -> None:
        super().__init__()
        pattern = window if isinstance(window, Sequence) else [window]
        _refuse_sizes(dim, num_heads, head_dim, positions, pattern)
        _refuse_place(norm_place, post_norms=post_norms, num_experts=num_experts)
        _refuse_numbers(
            attention_scale=attention_scale, attention_cap=attention_cap, logit_cap=logit_cap, embed_scale=embed_scale,
            window_rope_theta=window_rope_theta,
        )  # fmt: skip
        self.dim, self.vocab_size, self.context_length = dim, vocab_size, context_length
        self._windows = tuple(pattern[layer % len(pattern)] for layer in range(depth))
        self.window = min((size for size in self._windows if size is not None), default=None)
        self.logit_cap, self.embed_scale = logit_cap, embed_scale
        self.balance_weight, self.router_z_weight = balance_weight, router_z_weight
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        # head_dim is a separate setting because some models (Mistral Nemo) do not have num_heads * head_dim == dim.
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        heads: dict[str, Any] = {"dim": dim, "num_heads": num_heads, "num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim}
        heads |= {"bias": bias, "qkv_bias": qkv_bias, "scale": attention_scale, "cap": attention_cap}

        def head_norms() -> tuple[nn.Module, nn.Module] | None:
            return (build_norm(norm, self.head_dim, eps), build_norm(norm, self.head_dim, eps)) if qk_norm else None

        def new_mlp() -> nn.Module:
            sizes: dict[str, Any] = {"dim": dim, "hidden_dim": hidden_dim or 4 * dim, "activation": activation}
            if num_experts is None:
                return feed_forward(**sizes, bias=bias)
            chosen: dict[str, Any] = {"num_experts": num_experts, "experts_per_token": experts_per_token, "capacity": expert_capacity}
            return Experts(**sizes, **chosen, renormalise=renormalise_experts)

        self.embedding = nn.Embedding(vocab_size, dim)
        learned = positions == "learned"
        self.positions = nn.Parameter(torch.empty(context_length, dim)) if learned else None
        turns: dict[str, Any] = {"head_dim": self.head_dim, "share": rotary_share}
        turns |= {"sections": rope_sections, "interleaved": rope_interleaved}
        _refuse_axes(rope_sections, deepstack, positions, depth)
        self.has_axes, self.deepstack = rope_sections is not None, deepstack
        self.rotary = None if learned else Rotary(**turns, theta=rope_theta, scaling=rope_scaling)
        self.window_rotary = None if learned or window_rope_theta is None else Rotary(**turns, theta=window_rope_theta)
        block: Any = PostNormDecoderBlock if norm_place == "after" else partial(DecoderBlock, post_norms=post_norms)
        norms: dict[str, Any] = {"dim": dim, "norm": norm, "eps": eps}
        self.blocks = nn.ModuleList(
            block(**norms, attention=CausalAttention(**heads, qk_norms=head_norms()), mlp=new_mlp()) for _ in range(depth)
        )
        self.norm = nn.Identity() if norm_place == "after" else build_norm(norm, dim, eps)
        # If tied, logits() multiplies by embedding.weight, so that the state dict holds the matrix only once.
        self.lm_head = None if tied else Linear(dim, vocab_size, bias=False)
        self._initialise()

    def place(self, x: Float[Tensor, "*tokens dim"], places: Int[Tensor, "*axes_and_tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Add learned position embeddings if the model has them."""
        return x if self.positions is None else x + F.embedding(places, self.positions)  # not an index: its gradient depends on threads

    @property
    def windows(self) -> Sequence[int | None]:
        """Attention window of each layer."""
        return self._windows

    def rotation(self, places: Int[Tensor, "*axes_and_tokens"], window: int | None) -> Turn | None:
        """Return the rotary rotation of these positions in layers with this window, or None with learned positions."""
        rotary = self.rotary if window is None or self.window_rotary is None else self.window_rotary
        return None if rotary is None else Turn(*rotary.tables(places))

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Return the scaled embeddings of token ids; negative ids (placeholders of other modalities) give zeros."""
        vectors = super().embed(token_ids)
        if self.embed_scale == 1.0:
            return vectors
        # Gemma rounds the factor to the type of the weights first: 39.25 instead of 39.19 in bfloat16.
        return vectors * torch.tensor(self.embed_scale, dtype=vectors.dtype).item()

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Return the logits of the next token over the vocabulary."""
        logits = super().logits(hidden)
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)

    def auxiliary_losses(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses that balance the experts and limit the logits of their routers, and metrics. See ``LanguageModel``."""
        return expert_losses(self.blocks, balance_weight=self.balance_weight, z_weight=self.router_z_weight)

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
            if isinstance(module, Experts):
                module.initialise(0.02, residual)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)


def _refuse_sizes(dim: int, num_heads: int, head_dim: int | None, positions: str, windows: Sequence[int | None]) -> None:
    if positions not in POSITIONS:
        raise ConfigError(f"positions: there is no {positions!r}; {name_choices(positions, POSITIONS)}")
    if num_heads < 1 or (head_dim is None and dim % num_heads):
        # Suggest only heads of at least 8 dimensions; narrower ones are legal, but not useful.
        legal = [n for n in range(1, dim + 1) if dim % n == 0 and dim // n >= 8]
        raise ConfigError(f"num_heads: {num_heads} does not divide dim {dim}; use one of {legal}, or set head_dim")
    if head_dim is not None and head_dim < 1:
        raise ConfigError(f"head_dim: got {head_dim}; allowed is a whole number above 0")
    if not windows or not all(size is None or (isinstance(size, int) and size > 0) for size in windows):
        shown = windows[0] if len(windows) == 1 else list(windows)
        raise ConfigError(f"window: got {shown}; allowed is a whole number above 0, null for no window, or a list of these")


def _refuse_place(norm_place: str, *, post_norms: bool, num_experts: int | None) -> None:
    if norm_place not in NORM_PLACES:
        raise ConfigError(f"norm_place: there is no {norm_place!r}; {name_choices(norm_place, NORM_PLACES)}")
    if norm_place == "after" and (post_norms or num_experts is not None):
        raise ConfigError(
            f"norm_place: 'after', but post_norms is {post_norms} and num_experts {num_experts}; set post_norms=false and "
            "num_experts=null, or norm_place=before"
        )


def _refuse_axes(sections: Sequence[int] | None, deepstack: int, positions: str, depth: int) -> None:
    if sections is not None and positions != "rotary":
        raise ConfigError(f"rope_sections: not possible with positions {positions!r}; set positions: rotary, or rope_sections: null")
    if not 0 <= deepstack <= depth:
        raise ConfigError(f"deepstack: got {deepstack}; allowed is a whole number of layers from 0 to depth {depth}")


def _refuse_numbers(**numbers: float | None) -> None:
    for key, value in numbers.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{key}: got {value}; allowed is a number above 0")

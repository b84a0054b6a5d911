"""Mixture of experts in place of a feed-forward part: a router sends each token to a few of many feed-forward networks.

Papers: Shazeer et al. 2017 (arXiv 1701.06538); Fedus et al. 2021 (Switch, arXiv 2101.03961), section 2.2, for capacity and the loss that
balances the experts, and section 2.4, for training; Zoph et al. 2022 (ST-MoE, arXiv 2202.08906), equation 5, for the loss on large logits;
Jiang et al. 2024 (Mixtral, arXiv 2401.04088), section 2, for the weights of the chosen experts. Reference: transformers 5.17,
``modeling_mixtral.py`` and ``modeling_switch_transformers.py``.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.linear import Linear
from zoo.layers.mlp import ACTIVATIONS, GATED
from zoo.types import on_host, send

INIT_SCALE = 0.1  # Switch, section 2.4 and table 3: the variance of weights is a tenth of the usual 1 / fan-in


@dataclass(frozen=True)
class Routing:
    """Choices of a router for a list of tokens.

    Attributes:
        logits: of each expert, in float32.
        probabilities: their softmax.
        chosen: experts of each token, the best first.
    """

    logits: Float[Tensor, "tokens num_experts"]
    probabilities: Float[Tensor, "tokens num_experts"]
    chosen: Int[Tensor, "tokens experts_per_token"]


@dataclass(frozen=True)
class SparseSettings:
    """Settings of the layers of a stack that have experts in place of one feed-forward part, one expert per token (Switch).

    Attributes:
        num_experts: number of experts of such a layer.
        step: distance between such layers. 2 gives experts to the layers 1, 3, 5 and so on, counted from 0; 1 to all.
        capacity: see ``Experts``.
        dropout: see ``Experts``.
        jitter: see ``Experts``.

    Raises:
        ConfigError: ``step`` is no whole number above 0.
    """

    num_experts: int
    step: int = 2
    capacity: float | None = None
    dropout: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ConfigError(f"expert_step: got {self.step}; allowed is a whole number above 0 (2 in Switch: every second layer)")

    @classmethod
    def of(cls, num_experts: int | None, *, depth: int, **settings: Any) -> "SparseSettings | None":
        """Return the settings of a stack of ``depth`` layers; None without a number of experts.

        Raises:
            ConfigError: no layer of the stack would have experts.
        """
        if num_experts is None:
            return None
        made = cls(num_experts, **settings)
        if not any(made.is_sparse(layer) for layer in range(depth)):
            raise ConfigError(
                f"expert_step: {made.step} gives experts to no layer of depth {depth}; set expert_step=1, or num_experts=null"
            )
        return made

    def is_sparse(self, layer: int) -> bool:
        """Return True if a layer, counted from 0, has experts."""
        return self.step == 1 or layer % self.step == 1

    def make(self, *, dim: int, hidden_dim: int, activation: str) -> "Experts":
        """Return the experts of one layer, whose output is weighted by the router's probability."""
        rates: dict[str, Any] = {"capacity": self.capacity, "dropout": self.dropout, "jitter": self.jitter}
        sizes: dict[str, Any] = {"dim": dim, "hidden_dim": hidden_dim, "num_experts": self.num_experts, "experts_per_token": 1}
        return Experts(**sizes, activation=activation, renormalise=False, **rates)


class Experts(nn.Module):
    """Feed-forward networks without biases, gated or not, of which a router chooses ``experts_per_token`` for each token.

    The output is the sum of the chosen experts' outputs, weighted by the router's probabilities.

    Args:
        dim: width of the tokens.
        hidden_dim: width of the hidden layer of each expert.
        num_experts: number of experts.
        experts_per_token: number of experts that compute each token.
        activation: name in ``zoo.layers.mlp.GATED`` for gated networks, or in ``ACTIVATIONS`` for plain ones of two layers (Switch).
        capacity: limit on the tokens of one expert in training, as a multiple of an even share; an expert skips the tokens beyond it, for
            which only the residual stream remains (or their other expert). None: no limit. In evaluation there is never one, so that the
            result of a token does not depend on the rest of the batch.
        renormalise: scale the probabilities of the chosen experts to sum to one (Mixtral). With one expert per token, they must stay as
            are (Switch), because the scaled one is always 1 and gives the router no gradient.
        dropout: rate on the hidden layer of each expert, in training (Switch: 0.4 in fine-tuning, more than in dense layers).
        jitter: in training, the input of the router alone is multiplied by uniform noise from 1 - jitter to 1 + jitter (Switch: 0.01).

    Attributes:
        routing: choices for the real tokens of the last call in training; None otherwise. Whoever reads it sets it to None.

    Raises:
        ConfigError: there are fewer experts than a token needs, the activation is unknown, or a rate is out of its range.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        experts_per_token: int,
        activation: str,
        capacity: float | None = None,
        renormalise: bool = True,
        dropout: float = 0.0,
        jitter: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= experts_per_token <= num_experts:
            raise ConfigError(
                f"experts_per_token: got {experts_per_token}; allowed is 1 to {num_experts} (num_experts); change it, raise num_experts, "
                "or set num_experts=null for one network for all tokens"
            )
        known = {**GATED, **ACTIVATIONS}
        if activation not in known:
            raise ConfigError(f"activation: experts have no {activation!r}; {name_choices(activation, known)}")
        if capacity is not None and not capacity > 0:
            raise ConfigError(f"expert_capacity: got {capacity}; allowed is a number above 0 (1.25 in Switch), or null")
        if not 0 <= dropout < 1:
            raise ConfigError(f"expert_dropout: got {dropout}; allowed is 0 to below 1 (0.4 in Switch's fine-tuning)")
        if not 0 <= jitter < 1:
            raise ConfigError(f"router_jitter: got {jitter}; allowed is 0 to below 1 (0.01 in Switch)")
        self.num_experts, self.experts_per_token, self.capacity = num_experts, experts_per_token, capacity
        self.renormalise, self.dropout, self.jitter = renormalise, dropout, jitter
        self.gated, self.activation = activation in GATED, known[activation]
        self.router = Linear(dim, num_experts, bias=False)
        # All experts in one tensor: it gets a gradient even if no token chose some of them, which distributed training needs.
        self.fc1 = nn.Parameter(torch.empty(num_experts, (1 + self.gated) * hidden_dim, dim))  # rows: gate, value
        self.fc2 = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.routing: Routing | None = None

    def initialise(self, std: float, residual_std: float) -> None:
        """Draw the weights from normal distributions; ``residual_std`` is that of the output layers."""
        nn.init.normal_(self.fc1, std=std)
        nn.init.normal_(self.fc2, std=residual_std)

    def initialise_scaled(self, scale: float = INIT_SCALE) -> None:
        """Draw all weights, those of the router too, from N(0, scale / fan_in)."""
        for weight in (self.router.weight, self.fc1, self.fc2):
            nn.init.normal_(weight, std=(scale / weight.shape[-1]) ** 0.5)

    def forward(self, x: Float[Tensor, "*tokens dim"], real: Bool[Tensor, "*tokens"] | None = None) -> Float[Tensor, "*tokens dim"]:
        """Return the weighted outputs of each token's experts.

        Args:
            x: tokens.
            real: False at padding, which takes no place of an expert and does not count in the losses; None: all are real.
        """
        flat = x.flatten(0, -2)  # [tokens, dim]
        routing, weights = self._route(flat)
        if x.is_meta:  # meta tensors have no values to select by
            return (self._changed(flat, self.fc1[0], self.fc2[0]) * weights.sum(-1, keepdim=True)).view_as(x)
        if self.training:
            self.routing = routing if real is None else _of_real(routing, real)
            if self.capacity is not None:
                return self._limited(flat, routing.chosen, weights, real).view_as(x)
        out = torch.zeros_like(flat)
        for expert in range(self.num_experts):
            tokens, place = (routing.chosen == expert).nonzero(as_tuple=True)
            # An expert without tokens is computed too: its slice of the stacked weights then has a gradient of zero.
            changed = self._changed(flat[tokens], self.fc1[expert], self.fc2[expert])
            out = out.index_add(0, tokens, (changed * weights[tokens, place, None]).to(out.dtype))
        return out.view_as(x)

    def _changed(
        self, x: Float[Tensor, "*experts tokens dim"], fc1: Float[Tensor, "*experts wide dim"], fc2: Float[Tensor, "*experts dim hidden"]
    ) -> Float[Tensor, "*experts tokens dim"]:
        """Return the outputs of one expert, or of all of them for the tokens of each."""
        hidden = x @ fc1.mT
        if self.gated:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = self.activation(gate) * value
        else:
            hidden = self.activation(hidden)
        if self.dropout and self.training:
            hidden = F.dropout(hidden, self.dropout)
        return hidden @ fc2.mT

    def _limited(
        self,
        flat: Float[Tensor, "tokens dim"],
        chosen: Int[Tensor, "tokens experts_per_token"],
        weights: Float[Tensor, "tokens experts_per_token"],
        real: Bool[Tensor, "*rows"] | None,
    ) -> Float[Tensor, "tokens dim"]:
        """Return the weighted outputs if every expert has room for ``capacity`` times an even share of the tokens.

        Tokens that prefer an expert come first, then those for which it is the second choice, each in their order. The room of all
        experts is one tensor, whose size does not depend on their choices, so that nothing waits for the device.
        With room for 2 tokens, the choices ``0 1 0 0`` give the places ``0 2 1 -`` in the rows ``0 0 1 1`` of the experts.
        """
        num_tokens, device = len(flat), flat.device
        count = num_tokens if real is None else int(on_host(real).sum())
        room = math.ceil(count * self.experts_per_token / self.num_experts * self.capacity)  # type: ignore[operator]
        preferred = chosen.T.flatten()  # [experts_per_token * tokens]: all first choices, then the second ones
        takes = preferred[:, None] == torch.arange(self.num_experts, device=device)  # [choices, num_experts]
        if real is not None:
            takes = takes & real.flatten().repeat(self.experts_per_token)[:, None]
        before = (takes.cumsum(0) - 1).gather(1, preferred[:, None])[:, 0]  # earlier choices of the same expert
        is_taken, number = takes.any(1) & (before < room), torch.arange(len(preferred), device=device)
        end = self.num_experts * room
        place = torch.where(is_taken, preferred * room + before, end + number)  # no two choices have the same place
        nothing = flat.new_zeros(1, flat.shape[1])
        source = torch.full((end + len(preferred),), num_tokens, device=device).scatter(0, place, number % num_tokens)[:end]
        filled = torch.cat([flat, nothing]).index_select(0, source).view(self.num_experts, room, flat.shape[1])
        changed = self._changed(filled, self.fc1, self.fc2).flatten(0, 1)  # [num_experts * room, dim]
        found = torch.cat([changed, nothing.to(changed.dtype)]).index_select(0, place.clamp(max=end))
        return (found.unflatten(0, (self.experts_per_token, num_tokens)) * weights.T[:, :, None]).sum(0).to(flat.dtype)

    def _route(self, flat: Float[Tensor, "tokens dim"]) -> tuple[Routing, Float[Tensor, "tokens experts_per_token"]]:
        if self.jitter and self.training:
            flat = flat * torch.empty_like(flat).uniform_(1 - self.jitter, 1 + self.jitter)
        logits = self.router(flat).float()  # float32: in half precision, equal logits are common, and choices become arbitrary
        probabilities = logits.softmax(-1)
        best, chosen = probabilities.topk(self.experts_per_token, dim=-1)
        return Routing(logits, probabilities, chosen), best / best.sum(-1, keepdim=True) if self.renormalise else best


def _of_real(routing: Routing, real: Bool[Tensor, "*rows"]) -> Routing:
    """Return the choices for the real tokens, which are counted on the CPU so that nothing waits for the device."""
    kept = send(on_host(real).flatten().nonzero()[:, 0], routing.logits.device)
    return Routing(*(each.index_select(0, kept) for each in (routing.logits, routing.probabilities, routing.chosen)))


def balance_loss(probabilities: Float[Tensor, "tokens num_experts"], chosen: Int[Tensor, "tokens experts_per_token"]) -> Float[Tensor, ""]:
    """Return the load-balancing loss: number of experts times the sum of share of tokens and mean probability of each expert.

    Its smallest value for even use is the number of experts per token (1 for Switch, 2 for Mixtral). Only the probabilities have a
    gradient.
    Source: Switch, equation 4, without its factor alpha; with shares [.5, .25, .25, 0] and probabilities [.4, .3, .2, .1] it is 1.3.
    """
    return probabilities.shape[-1] * (expert_shares(probabilities, chosen) * probabilities.mean(0)).sum()


def expert_shares(
    probabilities: Float[Tensor, "tokens num_experts"], chosen: Int[Tensor, "tokens experts_per_token"]
) -> Float[Tensor, " num_experts"]:
    """Return the share of tokens that chose each expert; they sum to the number of experts per token."""
    counts = torch.zeros_like(probabilities).scatter_(1, chosen, 1.0)
    return counts.mean(0)


def router_z_loss(logits: Float[Tensor, "tokens num_experts"]) -> Float[Tensor, ""]:
    """Return the mean squared logarithm of the sum of exponentials, which keeps the router's logits small (ST-MoE, equation 5)."""
    return logits.logsumexp(-1).square().mean()


def expert_losses(blocks: nn.ModuleList, *, balance_weight: float, z_weight: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weighted losses of the routers in the last call in training, and unweighted metrics; the routers forget that call.

    The losses are means over layers of each layer's loss (transformers pools the tokens of all layers, so that one layer can hide the
    imbalance of another).
    """
    experts = [module for module in blocks.modules() if isinstance(module, Experts)]
    routings = [each.routing for each in experts if each.routing is not None and len(each.routing.logits)]
    for each in experts:
        each.routing = None
    if not routings:
        return {}, {}
    balance = torch.stack([balance_loss(r.probabilities, r.chosen) for r in routings]).mean()
    z_loss = torch.stack([router_z_loss(r.logits) for r in routings]).mean()
    busiest = torch.stack([expert_shares(r.probabilities, r.chosen).max() for r in routings]).mean()
    per_token = routings[0].chosen.shape[1]
    losses = {
        name: weight * loss for name, weight, loss in (("balance", balance_weight, balance), ("router_z", z_weight, z_loss)) if weight
    }
    metrics = {"balance_loss": balance, "router_z_loss": z_loss, "busiest_expert": busiest / per_token}
    return losses, {name: value.detach() for name, value in metrics.items()}

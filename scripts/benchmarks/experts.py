"""Mixture of experts on WordNet's glosses: perplexity, and the share of tokens of the busiest expert, with and without balancing.

    python scripts/benchmarks/experts.py     # about two minutes on one core

Models of two layers and 64 channels read 262,144 tokens as in `scaling.py`: a dense one, and three with four experts of which each token
uses two, so that all do the same work for a token. The experts are balanced not at all, by the loss of Switch with weight 0.01, and by the
same with 0.1. The figures are those of 65,536 held-out tokens. Prints one line of JSON for each model.
"""

import json
import math

import torch
from scaling import HELD_OUT, batches, held_out, losses, read_tokens
from torch import Tensor, nn

from zoo.assembly.create import create_model
from zoo.downloads.fetching import fetched
from zoo.layers.experts import Experts, expert_shares

TOKENS, WIDTH, HIDDEN, RATE = 262_144, 64, 96, 8e-3
MODELS = {  # keywords of ``causal_lm``
    "dense": {"num_experts": None, "hidden_dim": 2 * HIDDEN, "balance_weight": 0.0, "router_z_weight": 0.0},
    "experts, not balanced": {"balance_weight": 0.0},
    "experts, balance_weight 0.01": {"balance_weight": 0.01},
    "experts, balance_weight 0.1": {"balance_weight": 0.1},
}


def train(model: nn.Module, ids: Tensor) -> None:
    """Train once on the first tokens, with the losses of the routers added, and a rate that rises, then falls to zero."""
    steps = TOKENS // (4 * 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for step, windows in enumerate(batches(ids, TOKENS)):
        share = min((step + 1) / 25, (steps - step) / (steps - 25))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        loss = losses(model.train(), windows)
        further, _ = model.auxiliary_losses()  # type: ignore[operator]
        (loss + sum(further.values())).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def shares(model: nn.Module, ids: Tensor) -> list[list[float]]:
    """Return the share of the choices that go to each expert of each layer; they sum to 1."""
    layers = [module for module in model.train().modules() if isinstance(module, Experts)]
    sums = [torch.zeros(layer.num_experts) for layer in layers]
    number = 0
    for windows in batches(ids, HELD_OUT // 4):
        losses(model, windows)
        number += 1
        for layer, total in zip(layers, sums, strict=True):
            assert layer.routing is not None
            total += expert_shares(layer.routing.probabilities, layer.routing.chosen) / layer.experts_per_token
    return [[round(float(value), 3) for value in total / number] for total in sums]


def main() -> None:
    """Train and measure the models."""
    torch.set_num_threads(1)
    ids = read_tokens(fetched("wordnet") / "lines.txt")
    for name, words in MODELS.items():
        torch.manual_seed(0)
        model = create_model(
            "mixtral_nano", **{"vocab_size": 512, "context_length": 128, "dim": WIDTH, "hidden_dim": HIDDEN, "tied": False} | words
        )
        nn.init.normal_(model.embedding.weight)  # see ``scaling.make``
        train(model, ids[HELD_OUT + 1 :])
        found = {"model": name, "perplexity": round(math.exp(held_out(model, ids)), 2), "shares": shares(model, ids)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

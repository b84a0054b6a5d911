"""Adapters: few weights beside frozen ones, put into parts of a model, by PEFT where it has them, and folded into the weights again.

Papers: Hu et al. 2021 (LoRA, arXiv 2106.09685), section 4.1; Liu et al. 2024 (DoRA, arXiv 2402.09353); Kalajdzievski 2023 (rsLoRA,
arXiv 2312.03732); Liu et al. 2022 (IA3, arXiv 2205.05638), section 3.3. Which layers: Dettmers et al. 2023 (QLoRA, arXiv
2305.14314), section 4 (all linear layers of the blocks).

Prefix tuning (Li and Liang 2021, arXiv 2101.00190) is ours, because PEFT's is for models of transformers alone; there is nothing that it
could be folded into.

A saved model names its adapters in its config (``system.adapters``), so that it is built with them again.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.decoder import CausalAttention, Prefix
from zoo.layers.linear import Linear
from zoo.layers.quantised import dequantised, quantise

KINDS = ("lora", "dora", "ia3", "prefix")
KEY = "adapters"  # of a system's config
ADAPTER = "default"  # PEFT's name of the only one
BASE = ".base_layer."
UNFOLDED = "a prefix cannot be folded into weights; keep the model as it was saved (zoo.load, zoo.save), or train with lora, dora or ia3"
LEARNT = (".lora_A.", ".lora_B.", ".lora_magnitude_vector.", ".ia3_l.")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What is put into one part of a model.

    Attributes:
        kind: "lora", "dora" (LoRA of directions, with learned lengths), "ia3" (learned factors on keys, values and inner
            activations; the layers are then named by ``targets`` and ``inner``) or "prefix" (learned keys and values before every text,
            in each block of a language model).
        rank: of the change of each weight.
        alpha: the change is multiplied by ``alpha / rank``, or with ``rank_stabilised`` by ``alpha / sqrt(rank)``.
        dropout: of the inputs of the change, in training.
        targets: names of linear layers below the part, ``*`` stands for any text (``*.attention.qkv``). Empty: all of them but those
            that make logits.
        inner: those of the targets whose inputs are scaled (IA3 alone; the feed-forward layers).
        num_tokens: of a prefix.
        quantise: keep the frozen weights of the targets in four bits, "nf4" or "fp4" (QLoRA); None keeps them as they are.

    Raises:
        ConfigError: an unknown kind or a value outside its range.
    """

    kind: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilised: bool = False
    targets: Sequence[str] = field(default_factory=tuple)
    inner: Sequence[str] = field(default_factory=tuple)
    num_tokens: int = 16
    quantise: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind: there is no {self.kind!r}; {name_choices(self.kind, KINDS)}")
        if self.quantise is not None and self.kind != "lora":
            raise ConfigError(f"quantise: {self.quantise!r} goes with kind lora, not with {self.kind}")
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"rank: {self.rank}, dropout: {self.dropout}; allowed is a rank of 1 or more, a dropout from 0 to below 1")
        if self.num_tokens < 1:
            raise ConfigError(f"num_tokens: {self.num_tokens}; allowed is 1 or more")
        if isinstance(self.targets, str) or isinstance(self.inner, str):
            raise ConfigError("targets: is one string; give a list, targets=[NAME]")

    @property
    def factor(self) -> float:
        """On the product of the two LoRA matrices."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


def inject(model: nn.Module, adapters: Mapping[str, Adapter], key: str = KEY) -> None:
    """Put adapters into parts of a model, whose other weights are then frozen, and note them in its config.

    Args:
        adapters: by part, for example ``{"head.language": Adapter(rank=16)}``.

    Raises:
        ConfigError: PEFT is missing, a part or layer that the model does not have, or a part that has adapters already.
    """
    if not adapters:
        return
    parts = dict(model.named_modules())
    for name, adapter in adapters.items():
        if name not in parts:
            known = [part for part in parts if part and part.count(".") <= name.count(".")]
            raise ConfigError(f"{key}.{name}: the model has no such part; {name_choices(name, known)}")
        if _has_adapters(parts[name]):
            raise ConfigError(f"{key}.{name}: has adapters already; merge them first (zoo.layers.adapters.merge), or name other parts")
        if adapter.kind == "prefix":
            _put_prefix(parts[name], adapter.num_tokens, f"{key}.{name}")
            continue
        targets = _targets(parts[name], adapter.targets, f"{key}.{name}.targets")
        inner = [] if adapter.kind != "ia3" else [t for t in targets if any(fnmatchcase(t, word) for word in adapter.inner)]
        if adapter.quantise is not None:
            quantise(parts[name], targets, adapter.quantise)
        peft = _peft()
        peft.inject_adapter_in_model(_peft_config(peft, adapter, targets, inner), parts[name])
    config: Any = getattr(model, "config", None)
    if config is not None:
        config[KEY] = {**config.get(KEY, {}), **{name: _plain(adapter) for name, adapter in adapters.items()}}


def _put_prefix(part: nn.Module, num_tokens: int, key: str) -> None:
    """Freeze a part and give each of its causal attentions a prefix."""
    attentions = [module for module in part.modules() if isinstance(module, CausalAttention)]
    if not attentions or getattr(part, "window", None) is not None:
        raise ConfigError(f"{key}: a prefix is for our language models whose tokens see all before them; choose lora, dora or ia3")
    part.requires_grad_(False)
    for attention in attentions:
        head_dim = attention.out.in_features // attention.num_heads
        prefix = Prefix(num_tokens=num_tokens, num_heads=attention.num_kv_heads, head_dim=head_dim)
        attention.prefix = prefix.to(attention.out.weight.device)


def _has_adapters(model: nn.Module) -> bool:
    return any(hasattr(module, "base_layer") or isinstance(module, Prefix) for module in model.modules())


def _plain(adapter: Adapter) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list | tuple) else value for name, value in asdict(adapter).items()}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError("adapters: need PEFT; install it with: pip install 'multimodal-zoo[peft]'") from error
    return peft


def _targets(part: nn.Module, patterns: Sequence[str], key: str) -> list[str]:
    """Names of the linear layers below a part that are adapted."""
    logits = getattr(part, "vocab_size", None)
    linear = {name: layer for name, layer in part.named_modules() if isinstance(layer, nn.Linear) and name}
    if not patterns:
        linear = {name: layer for name, layer in linear.items() if layer.out_features != logits}
    chosen = [name for name in linear if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ConfigError(f"{key}: {list(patterns)} names no linear layer; {name_choices(patterns[0] if patterns else '', linear)}")
    return chosen


def _peft_config(peft: Any, adapter: Adapter, targets: list[str], inner: list[str]) -> Any:
    if adapter.kind == "ia3":
        return peft.IA3Config(target_modules=targets, feedforward_modules=inner)
    return peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.rank_stabilised,
        use_dora=adapter.kind == "dora",
        target_modules=targets,
    )


def merge(model: nn.Module) -> nn.Module:
    """Fold all adapters into the weights they stand beside; the model is then as if it had been trained whole.

    Returns:
        The same model, changed in place.

    Raises:
        ConfigError: a prefix, which is no change of weights.
    """
    if any(isinstance(module, Prefix) for module in model.modules()):
        raise ConfigError(f"{KEY}: {UNFOLDED}")
    config: Any = getattr(model, "config", None) or {}
    layers: list[tuple[str, Any]] = [(name, m) for name, m in model.named_modules() if hasattr(m, "base_layer") and hasattr(m, "merge")]
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _merged_layer(layer))
    config.pop(KEY, None)
    return model


def without_adapters(model: nn.Module) -> nn.Module:
    """The model itself where it has no adapters, else a copy into whose weights they are folded."""
    return merge(copy.deepcopy(model)) if _has_adapters(model) else model


def _merged_layer(layer: Any) -> nn.Module:
    """PEFT folds a change into a plain layer; a quantised one becomes plain first, or the change would be rounded away."""
    weight = dequantised(layer.base_layer)
    if weight is None:
        layer.merge()
        return layer.base_layer
    base, change = layer.base_layer, layer.get_delta_weight(ADAPTER)
    plain = Linear(base.in_features, base.out_features, bias=base.bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        plain.weight.copy_(weight + change)
        if base.bias is not None:
            plain.bias.copy_(base.bias)
    return plain.requires_grad_(False)


def can_be_folded(adapters: Mapping[str, Mapping[str, Any]] | None) -> bool:
    """Whether a saved config has adapters, all of which are changes of weights."""
    return bool(adapters) and all(words.get("kind") != "prefix" for words in adapters.values())


def merged_tensors(tensors: Mapping[str, Tensor], adapters: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """A saved model's weights with its adapters folded in, under the names that the model has without them.

    Args:
        adapters: the saved config's, which ``can_be_folded``.
    """
    found = {name.replace(BASE, "."): tensor for name, tensor in tensors.items() if not any(word in name for word in LEARNT)}
    for name in [name for name in tensors if name.endswith(f"{BASE}weight")]:
        layer = name.removesuffix(f"{BASE}weight")
        adapter = Adapter(**next(words for part, words in adapters.items() if layer.startswith(f"{part}.")))
        found[f"{layer}.weight"] = _merged_weight(tensors, layer, adapter)
        bias = tensors.get(f"{layer}{BASE}bias")
        if adapter.kind == "ia3" and bias is not None and not _scales_inputs(tensors, layer):
            found[f"{layer}.bias"] = bias * tensors[f"{layer}.ia3_l.{ADAPTER}"].flatten()
    return found


def _merged_weight(tensors: Mapping[str, Tensor], layer: str, adapter: Adapter) -> Tensor:
    weight = tensors[f"{layer}{BASE}weight"]  # [out, in]
    if adapter.kind == "ia3":
        return weight * tensors[f"{layer}.ia3_l.{ADAPTER}"]  # [out, 1], or [1, in] where inputs are scaled
    down, up = (tensors[f"{layer}.lora_{word}.{ADAPTER}.weight"] for word in "AB")
    changed = weight + adapter.factor * (up.float() @ down.float()).to(weight.dtype)
    if adapter.kind == "lora":
        return changed
    lengths = torch.linalg.vector_norm(changed, dim=1)  # of each output's row, which DoRA learns apart
    return changed * (tensors[f"{layer}.lora_magnitude_vector.{ADAPTER}.weight"] / lengths)[:, None]


def _scales_inputs(tensors: Mapping[str, Tensor], layer: str) -> bool:
    return tensors[f"{layer}.ia3_l.{ADAPTER}"].shape[0] == 1

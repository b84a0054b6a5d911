"""Adapters: small trainable weights inside frozen parts of a model, injected by PEFT and merged into the weights afterwards.

Papers: Hu et al. 2021 (LoRA, arXiv 2106.09685), section 4.1; Liu et al. 2024 (DoRA, arXiv 2402.09353); Kalajdzievski 2023 (rsLoRA,
arXiv 2312.03732); Liu et al. 2022 (IA3, arXiv 2205.05638), section 3.3. Choice of layers: Dettmers et al. 2023 (QLoRA, arXiv
2305.14314), section 4 (all linear layers of the blocks).

Prefix tuning (Li and Liang 2021, arXiv 2101.00190) is implemented here, because PEFT's works only with models of transformers. A prefix
cannot be merged into weights.

A saved model lists its adapters in its config (``system.adapters``), so that loading builds it with them.
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
from zoo.types import LanguageModel, Part, is_system

KINDS = ("lora", "dora", "ia3", "prefix")
KEY = "adapters"  # key of a system's config
ADAPTER = "default"  # PEFT's name for the first adapter; there is never a second one
BASE = ".base_layer."  # PEFT's name for the wrapped layer, as it appears in names of parameters
UNFOLDED = "a prefix cannot be merged into weights; keep the model as it was saved (zoo.load, zoo.save), or train with lora, dora or ia3"
LEARNT = (".lora_A.", ".lora_B.", ".lora_magnitude_vector.", ".ia3_l.")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Settings of the adapters in one part of a model.

    Attributes:
        kind: "lora"; "dora" (LoRA on the directions of the weight's rows, with learned lengths); "ia3" (learned factors on keys, values
            and hidden activations, in the layers that ``targets`` and ``inner`` name); or "prefix" (learned keys and values before every
            text, in each block of a language model).
        rank: rank of the update of each weight (lora, dora).
        alpha: the update is multiplied by ``alpha / rank``, or with ``rank_stabilised`` by ``alpha / sqrt(rank)``.
        dropout: rate on the inputs of the update in training, 0 to below 1.
        rank_stabilised: True scales as in rsLoRA, see ``alpha``.
        targets: names of linear layers below the part; ``*`` matches any text (``*.attention.qkv``). Empty: all linear layers except those
            that compute logits.
        inner: the targets whose inputs are scaled, instead of their outputs (only ia3; the feed-forward layers).
        num_tokens: length of a prefix, in tokens.
        quantise: keep the frozen weights of the targets in four bits, "nf4" or "fp4" (QLoRA); None does not quantise.

    Raises:
        ConfigError: ``kind`` is unknown, or a value is outside its range.
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
            raise ConfigError(f"quantise: {self.quantise!r} works only with kind lora, not {self.kind}; set quantise=null or kind=lora")
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"rank: {self.rank}, dropout: {self.dropout}; allowed is a rank of 1 or more, a dropout from 0 to below 1")
        if self.num_tokens < 1:
            raise ConfigError(f"num_tokens: {self.num_tokens}; allowed is 1 or more")
        if isinstance(self.targets, str) or isinstance(self.inner, str):
            raise ConfigError("targets: is one string; give a list, targets=[NAME]")

    @property
    def factor(self) -> float:
        """Factor on the product of the two LoRA matrices."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


def inject(model: nn.Module, adapters: Mapping[str, Adapter], key: str = KEY) -> None:
    """Inject adapters into parts of a model, freeze the other weights of these parts, and record the adapters in the model's config.

    Args:
        model: changed in place.
        adapters: by part, for example ``{"head.language": Adapter(rank=16)}``.
        key: config key of the adapters, for messages.

    Raises:
        ConfigError: PEFT is not installed, the model lacks a part or layer, or a part already has adapters.
    """
    if not adapters:
        return
    parts = dict(model.named_modules())
    for name, adapter in adapters.items():
        if name not in parts:
            known = [part for part in parts if part and part.count(".") <= name.count(".")]
            raise ConfigError(f"{key}.{name}: the model has no such part; {name_choices(name, known)}")
        if _has_adapters(parts[name]):
            raise ConfigError(f"{key}.{name}: already has adapters; merge them first (zoo.layers.adapters.merge), or choose other parts")
        if adapter.kind == "prefix":
            _put_prefix(parts[name], adapter.num_tokens, f"{key}.{name}")
            continue
        targets = _targets(parts[name], adapter.targets, f"{key}.{name}.targets")
        inner = [] if adapter.kind != "ia3" else [t for t in targets if any(fnmatchcase(t, word) for word in adapter.inner)]
        if adapter.quantise is not None:  # before PEFT, which chooses the type of its wrapper by the type of the layer
            quantise(parts[name], targets, adapter.quantise)
        peft = _peft()
        peft.inject_adapter_in_model(_peft_config(peft, adapter, targets, inner), parts[name])
    config = _config(model)
    if config is not None:
        config[KEY] = {**config.get(KEY, {}), **{name: _plain(adapter) for name, adapter in adapters.items()}}


def _put_prefix(part: nn.Module, num_tokens: int, key: str) -> None:
    """Freeze a part and give each of its causal attentions a prefix."""
    attentions = [module for module in part.modules() if isinstance(module, CausalAttention)]
    if not attentions or (isinstance(part, LanguageModel) and part.window is not None):
        raise ConfigError(
            f"{key}: kind prefix needs a zoo language model with full causal attention (no sliding window); choose lora, dora or ia3"
        )
    part.requires_grad_(False)
    for attention in attentions:
        head_dim = attention.out.in_features // attention.num_heads
        prefix = Prefix(num_tokens=num_tokens, num_heads=attention.num_kv_heads, head_dim=head_dim)
        attention.prefix = prefix.to(attention.out.weight.device)


def _config(model: nn.Module) -> dict[str, Any] | None:
    """Return the model's own config, not a copy, so that changes of it are saved with the model; None if zoo did not build the model."""
    return model.config if is_system(model) or isinstance(model, Part) else None


def _is_wrapped(module: nn.Module) -> bool:
    """Return True for a layer of PEFT, which keeps the layer that it adapts as ``base_layer``."""
    return hasattr(module, "base_layer")


def _has_adapters(model: nn.Module) -> bool:
    return any(_is_wrapped(module) or isinstance(module, Prefix) for module in model.modules())


def _plain(adapter: Adapter) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list | tuple) else value for name, value in asdict(adapter).items()}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError("adapters: PEFT is not installed; install it with: zoo install peft") from error
    return peft


def _targets(part: nn.Module, patterns: Sequence[str], key: str) -> list[str]:
    """Return the names of the linear layers below a part that get adapters."""
    logits = part.vocab_size if isinstance(part, LanguageModel) else None  # a layer with this many outputs computes logits
    linear = {name: layer for name, layer in part.named_modules() if isinstance(layer, nn.Linear) and name}
    if not patterns:
        linear = {name: layer for name, layer in linear.items() if layer.out_features != logits}
    chosen = [name for name in linear if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ConfigError(f"{key}: {list(patterns)} matches no linear layer; {name_choices(patterns[0] if patterns else '', linear)}")
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
    """Merge all adapters into the weights that they adapt; the model then has the same layers as one trained without adapters.

    Returns:
        The same model, changed in place.

    Raises:
        ConfigError: the model has a prefix, which cannot be merged into weights.
    """
    if any(isinstance(module, Prefix) for module in model.modules()):
        raise ConfigError(f"{KEY}: {UNFOLDED}")
    layers: list[tuple[str, Any]] = [(name, m) for name, m in model.named_modules() if _is_wrapped(m) and hasattr(m, "merge")]
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _merged_layer(layer))
    if (config := _config(model)) is not None:
        config.pop(KEY, None)
    return model


def without_adapters(model: nn.Module) -> nn.Module:
    """Return the model itself if it has no adapters, otherwise a copy with the adapters merged into its weights."""
    return merge(copy.deepcopy(model)) if _has_adapters(model) else model


def _merged_layer(layer: Any) -> nn.Module:
    """Return the plain layer with its adapter merged; a quantised layer is dequantised first, because rounding would lose the update."""
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
    """True if a saved config has adapters, and all of them can be merged into weights (no prefix)."""
    return bool(adapters) and all(settings.get("kind") != "prefix" for settings in adapters.values())


def merged_tensors(tensors: Mapping[str, Tensor], adapters: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return a saved model's weights with its adapters merged, under the names of the model without adapters.

    Args:
        tensors: the saved weights.
        adapters: the adapters of the saved config; ``can_be_folded`` must be True for them.
    """
    found = {name.replace(BASE, "."): tensor for name, tensor in tensors.items() if not any(part in name for part in LEARNT)}
    for name in [name for name in tensors if name.endswith(f"{BASE}weight")]:
        layer = name.removesuffix(f"{BASE}weight")
        adapter = Adapter(**next(settings for part, settings in adapters.items() if layer.startswith(f"{part}.")))
        found[f"{layer}.weight"] = _merged_weight(tensors, layer, adapter)
        bias = tensors.get(f"{layer}{BASE}bias")
        # IA3 scales outputs after the bias was added, so the bias is scaled too; if it scales inputs, the bias is not.
        if adapter.kind == "ia3" and bias is not None and not _scales_inputs(tensors, layer):
            found[f"{layer}.bias"] = bias * tensors[f"{layer}.ia3_l.{ADAPTER}"].flatten()
    return found


def _merged_weight(tensors: Mapping[str, Tensor], layer: str, adapter: Adapter) -> Tensor:
    weight = tensors[f"{layer}{BASE}weight"]  # [out, in]
    if adapter.kind == "ia3":
        return weight * tensors[f"{layer}.ia3_l.{ADAPTER}"]  # [out, 1], or [1, in] if inputs are scaled
    down, up = (tensors[f"{layer}.lora_{letter}.{ADAPTER}.weight"] for letter in "AB")
    changed = weight + adapter.factor * (up.float() @ down.float()).to(weight.dtype)
    if adapter.kind == "lora":
        return changed
    lengths = torch.linalg.vector_norm(changed, dim=1)  # DoRA replaces the length of each output's row by a learned one
    return changed * (tensors[f"{layer}.lora_magnitude_vector.{ADAPTER}.weight"] / lengths)[:, None]


def _scales_inputs(tensors: Mapping[str, Tensor], layer: str) -> bool:
    return tensors[f"{layer}.ia3_l.{ADAPTER}"].shape[0] == 1

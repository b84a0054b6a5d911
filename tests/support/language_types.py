"""Every model type of transformers with a causal language model: a tiny config of each, and how ours does beside the library's.

``python tests/support/hosted_guide.py`` writes the results to ``assets/guide/transformers.md``.
"""

from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from zoo.errors import ConfigError
from zoo.layers.hosted_probe import FAILURES, plain_cpu
from zoo.layers.hosted_tiny import shrink
from zoo.layers.hosted_transformers import quiet_and_offline
from zoo.registry.construct import build_part

TYPES = sorted(transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
# Settings of types whose default config transformers cannot build, or whose default does not show every kind of layer.
INDEXER = {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 256, "indexer_budget": 64, "indexer_compress_ratio": 4}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [22, 22, 20]}
SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 9]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    **{
        kind: {"text_config": {"hidden_size_per_layer_input": 0}} for kind in ("gemma4", "gemma4_unified")
    },  # as Gemma 4 31B; E2B is refused
    **{kind: {"hidden_size_per_layer_input": 0} for kind in ("gemma4_text", "gemma4_unified_text")},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 16},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": [*["conv", "conv", "full_attention"] * 10, "conv", "conv"]},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
}
LENGTH, LENGTHS = 11, (11, 7)
TOLERANCE = 1e-5  # of the largest logit


def tiny_config(kind: str, **settings: Any) -> dict[str, Any]:
    """Return the ``config.json`` of a tiny model, with the decoder's settings that the library's causal model sets itself."""
    with quiet_and_offline():
        whole = transformers.AutoConfig.for_model(kind, **{**SETTINGS.get(kind, {}), **settings}).to_dict()
    small = shrink(whole, transformers.PreTrainedConfig().to_dict())
    if small.get("is_encoder_decoder"):
        small["is_encoder_decoder"] = False  # as transformers writes it for BartForCausalLM and its relatives
    if "is_decoder" in small:
        small["is_decoder"] = True
    return {**small, **{key: value for key, value in settings.items() if key == "is_decoder"}}


def pair(kind: str, **settings: Any) -> tuple[Any, Any]:
    """Return our language model and the library's, with the same random weights.

    Raises:
        ConfigError: ours refuses the type.
    """
    config = tiny_config(kind, **settings)
    ours = build_part("language", {"name": "transformers", "config": config}, kind).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    arguments = {key: value for key, value in config.items() if key != "model_type"}
    with quiet_and_offline():
        parsed = transformers.AutoConfig.for_model(config["model_type"], **arguments)
        theirs = transformers.AutoModelForCausalLM.from_config(parsed, dtype=torch.float32).eval()
    theirs.load_state_dict({key.removeprefix("model."): tensor for key, tensor in ours.state_dict().items()})
    return ours, theirs


@torch.no_grad()
def differences(ours: Any, theirs: Any) -> dict[str, float]:
    """Return how far our logits are from the library's, as a share of its largest: whole, cached (7 and 4 tokens), padded on the left."""
    ids = torch.randint(10, 96, (2, LENGTH))
    expected = theirs(input_ids=ids, use_cache=False).logits
    cache = ours.new_cache(2, LENGTH)
    parts = [ours.logits(ours(part, cache=cache)) for part in (ids[:, :7], ids[:, 7:])]
    found = {"whole": ours.logits(ours(ids)), "cached": torch.cat(parts, 1)}
    far = {name: float((logits - expected).abs().max()) for name, logits in found.items()}
    mask = torch.arange(LENGTH) >= LENGTH - torch.tensor(LENGTHS)[:, None]
    padded = ids[1].roll(LENGTH - LENGTHS[1])
    row = ours.logits(ours(torch.stack([ids[0], padded]), mask))[1, mask[1]]
    far["padded"] = float((row - expected[1, : LENGTHS[1]]).abs().max())
    return {name: value / max(1.0, float(expected.abs().max())) for name, value in far.items()}


def outcome(kind: str) -> tuple[str, str]:
    """Return "equal", "wrong" or "refused", and the differences or the reason."""
    try:
        with plain_cpu():
            far = differences(*pair(kind))
    except ConfigError as error:
        return "refused", str(error)
    except (StrictDataclassError, ValueError) as error:  # transformers cannot make a config of the type alone
        return "refused", f"transformers: {' '.join(str(error).split())[:120]}"
    except FAILURES as error:
        return "failed", f"{type(error).__name__}: {error}"
    return ("equal" if max(far.values()) < TOLERANCE else "wrong"), ", ".join(f"{name} {value:.1e}" for name, value in far.items())

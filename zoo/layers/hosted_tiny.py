"""Tiny copies of transformers' configs: the same kind of model with the same settings, at sizes that run in milliseconds.

A copy answers what a model does with caches, padding and positions, without the memory of the model itself. Sizes are found by the names
that configs of transformers 5.17 share; every setting that is no size is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 6  # tokens; below the length of a trial text, so that a sliding window has an effect in the trial
# Sizes by key, so that they fit each other: 4 heads of width 8 are 32 wide, and twice that is the inner width of a state-space block.
NAMES = {
    97: "vocab_size vocab_size_per_layer_input decoder_vocab_size pronunciation_vocab_size shape_vocab_size audio_vocab_size "
    "encoder_hash_byte_group_vocab ngram_vocab_size_base",
    64: "mamba_d_ssm mamba_intermediate_size mamba_inner_dim max_position_embeddings n_positions max_sequence_length "
    "seq_length n_ctx max_seq_len context_length max_target_positions",
    48: "intermediate_size moe_intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim dff d_inner dim_ff ffn_hidden_size n_inner "
    "expert_ffn_hidden_size shared_expert_intermediate_size shared_intermediate_size intermediate_size_mlp dense_intermediate_size "
    "moe_shared_expert_intermediate_size feed_forward_size",
    32: "hidden_size d_model n_embd emb_dim embedding_dim embed_dim embedding_size word_embed_proj_dim hidden_dim lru_width dim "
    "dim_model_base backbone_hidden_size input_embedding_size output_embedding_size pronunciation_embed_dim shape_embed_dim",
    16: "qk_head_dim attention_head_dim conv_dim",
    8: "dim_head attention_head_size d_head qk_rope_head_dim qk_nope_head_dim v_head_dim kv_lora_rank q_lora_rank index_head_dim "
    "linear_key_head_dim linear_value_head_dim linear_head_dim mamba_d_state state_size ssm_state_size hidden_size_per_layer_input "
    "laurel_rank mamba_d_head mamba_head_dim mamba_headdim swa_head_dim gated_norm_rank o_lora_rank adapter_rank kv_channels hc_lowrank "
    "d_rel ple_embed_dim rotary_dim mamba_n_heads mamba_num_heads n_mamba_heads head_dim mamba_dt_rank time_step_rank rel_extent "
    "mamba_chunk_size chunk_size indexer_head_dim",
    WINDOW: "sliding_window attention_chunk_size attention_window_size window_size local_attention sliding_window_size",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads num_query_groups "
    "num_decoder_attention_heads num_encoder_attention_heads num_experts n_routed_experts num_local_experts moe_num_experts index_n_heads "
    "indexer_n_heads linear_num_value_heads linear_num_heads swa_num_attention_heads router_hidden_size",
    2: "num_experts_per_tok num_experts_per_token moe_topk moe_k linear_num_key_heads top_k_experts n_groups zero_expert_num "
    "attn_layer_period expert_layer_period n_shared_experts moe_num_shared_experts",
    1: "n_group topk_group attn_layer_offset expert_layer_offset num_kv_shared_layers moe_layer_start_index first_k_dense_replace",
}
SIZES = {key: size for size, keys in NAMES.items() for key in keys.split()}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers", "num_blocks", "encoder_layers")
LAYERS = (*LAYERS, "num_encoder_layers", "num_layers_per_stack")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads")
KINDS = ("layer_types", "layers_block_type", "block_types", "attn_layers")  # lists with the kind of each layer, or of one period
PLACES = ("attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids", "cross_attention_layers")  # lists of layer numbers
LABELS = ("id2label", "label2id", "architectures", "dtype", "torch_dtype", "transformers_version")
SYMBOLS = ("_token_id", "_index")  # ends of keys that hold token ids
SMALLEST_VOCABULARY = min(SIZES[key] for key in ("vocab_size", "audio_vocab_size"))


def shrink(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config with small sizes.

    Args:
        config: all keys of a config (``PretrainedConfig.to_dict()``).
        defaults: keys and values of an empty ``PretrainedConfig``; nested configs leave them out, because some refuse them.
    """
    total = next((config[key] for key in LAYERS if isinstance(config.get(key), int)), 0)
    kinds: Sequence[str] = next((config[key] for key in KINDS if isinstance(config.get(key), list | tuple)), ())
    depth = _depth(kinds) + bool(config.get("num_kv_shared_layers"))  # the last one shares keys and values with an earlier one
    found = {key: _small(key, value, config, total, depth, defaults) for key, value in config.items() if key not in LABELS}
    if "num_layers_per_stack" in found:
        found.pop("num_hidden_layers", None)  # a product, which the config computes itself
    return found


def _depth(kinds: Sequence[str]) -> int:
    """Return the number of layers that shows every kind of layer; those that share weights ("hybrid") at least twice."""
    last = [kinds.index(kind) + 1 for kind in set(kinds)]
    if kinds.count("hybrid") > 1 and len(set(kinds)) > 1:
        last.append(kinds.index("hybrid", kinds.index("hybrid") + 1) + 1)
    return max([2, *last])


def _small(key: str, value: Any, config: Mapping[str, Any], total: int, depth: int, defaults: Mapping[str, Any]) -> Any:
    """Return a small value for one key."""
    if isinstance(value, Mapping):
        if key == "per_layer_config":
            return {number: shrink(part, defaults) for number, part in value.items() if int(number) < depth}
        if key.startswith("rope"):
            return _short_rope(value)
        return shrink({name: inner for name, inner in value.items() if name not in defaults or inner != defaults[name]}, defaults)
    if isinstance(value, list | tuple):
        return _short_list(key, list(value), total, depth)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if key in LAYERS:
        return min(value, depth)
    if key in KEY_HEADS:
        everyone = value in [config.get(name) for name in HEADS]
        return min(value, SIZES["num_heads"] if everyone else 2)
    if key == "attention_hidden_size":  # as wide as the model, or twice as wide
        return SIZES["hidden_size"] * (1 if value == config.get("hidden_size") else 2)
    if key.endswith(SYMBOLS):
        return value if value < SMALLEST_VOCABULARY else 2
    return min(value, SIZES[key]) if key in SIZES else value


def _short_list(key: str, value: list[Any], total: int, depth: int) -> list[Any]:
    """Return the part of a list that belongs to the first layers."""
    if key in PLACES:
        return [place for place in value if isinstance(place, int) and place < depth] or [depth - 1]
    short = value[:depth] if total and len(value) == total else value
    return [min(each, SIZES[key]) if key in SIZES and isinstance(each, int) else each for each in short]


def _short_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of rotary positions without lists, whose length is that of the large heads."""
    if any(isinstance(value, list) and key != "mrope_section" for key, value in rope.items()):
        return {"rope_type": "default", "rope_theta": rope.get("rope_theta", 10000.0)}
    short = {key: _short_rope(value) if isinstance(value, Mapping) else value for key, value in rope.items()}
    return {**short, "mrope_section": [2, 1, 1]} if "mrope_section" in rope else short  # half of a head of width 8

"""Types of the config files of transformers, for the architectures that become parts of ours.

One table holds the keys of all families, because a key means the same in each. It says which types are possible at all; each family's
converter then checks the values. A key that is not listed is not checked here.
"""

from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from zoo.errors import ConfigError, WeightsError, ZooError
from zoo.registry.schemas import refuse_depth
from zoo.storage.checked import check
from zoo.storage.outside import read_json_object

LARGEST = 2**31 - 1
Size = Annotated[int, Meta(le=LARGEST)] | None
Side = Annotated[int, Meta(le=LARGEST)] | list[int] | None
Number = float | None
Positive = Annotated[float, Meta(ge=0)] | None
Ids = int | list[int] | None
REMEDY = "fetch the directory again"


class Rope(TypedDict, total=False):
    """Rotary positions of a model's config."""

    rope_type: str | None
    type: str | None
    rope_theta: Number
    factor: Number
    low_freq_factor: Number
    high_freq_factor: Number
    original_max_position_embeddings: Number


_KEYS: dict[str, Any] = {
    **dict.fromkeys(("model_type", "transformers_version", "_name_or_path"), str | None),
    "architectures": list[str] | None,
    **dict.fromkeys(("hidden_act", "activation_function", "projector_hidden_act", "hidden_activation"), str | None),
    **dict.fromkeys(("feed_forward_proj", "problem_type", "vision_feature_select_strategy"), str | None),
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"), Size),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "num_key_value_heads", "projection_dim", "embedding_size"), Size),
    **dict.fromkeys(("type_vocab_size", "num_channels", "num_mel_bins", "max_source_positions", "max_target_positions"), Size),
    **dict.fromkeys(("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "n_embd", "n_positions", "n_layer", "n_head", "n_inner"), Size),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), Size),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "sliding_window", "num_latents", "latent_query_num"), Size),
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance", "embed_dim", "layers", "ffn_dim"), Size),
    **dict.fromkeys(("attention_heads", "projection_size", "num_hidden_groups", "inner_group_num"), Size),
    **dict.fromkeys(("image_size", "patch_size"), Side),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "rope_theta", "layerscale_value", "mlp_ratio"), Positive),
    **dict.fromkeys(("layer_scale_init_value", "downsample_ratio"), Positive),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "decoder_start_token_id", "image_token_id", "image_token_index"), int | None),
    "eos_token_id": Ids,
    "vision_feature_layer": Ids,
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "qkv_bias", "vision_use_head"), bool | None),
    **dict.fromkeys(("multimodal_projector_bias", "scale_embedding", "use_swiglu_ffn", "add_cross_attention"), bool | None),
    **dict.fromkeys(("id2label", "label2id"), dict[str, Any] | None),
    **dict.fromkeys(("rope_scaling", "rope_parameters"), Rope | None),
}
ModelConfig: Any = TypedDict("ModelConfig", _KEYS, total=False)  # type: ignore[misc]
HEADS_OF_STAGES = ("clap_audio_model",)  # model types whose num_attention_heads is a list, one number for each stage
NESTED = ("vision_config", "text_config", "audio_config", "vision_config_dict", "text_config_dict")


class GenerationConfig(TypedDict, total=False):
    """Content of ``generation_config.json``, as far as we read it."""

    eos_token_id: Ids
    pad_token_id: Ids
    bos_token_id: Ids
    decoder_start_token_id: Ids
    suppress_tokens: list[int] | None
    begin_suppress_tokens: list[int] | None
    alignment_heads: list[list[int]] | None
    forced_decoder_ids: list[list[int | None]] | None
    lang_to_id: dict[str, int] | None
    task_to_id: dict[str, int] | None
    language: str | None
    task: str | None
    is_multilingual: bool | None
    max_length: int | None
    max_new_tokens: int | None
    max_initial_timestamp_index: int | None
    no_timestamps_token_id: int | None
    prev_sot_token_id: int | None
    return_timestamps: bool | None
    temperature: Number | list[float]


Pixels = int | dict[str, int | None] | list[int] | None


class ImageProcessorConfig(TypedDict, total=False):
    """Content of ``preprocessor_config.json`` of an image processor."""

    image_processor_type: str | None
    feature_extractor_type: str | None
    size: Pixels
    crop_size: Pixels
    resample: int | None
    rescale_factor: Number
    crop_pct: Number
    image_mean: Number | list[float]
    image_std: Number | list[float]
    do_resize: bool | None
    do_rescale: bool | None
    do_normalize: bool | None
    do_center_crop: bool | None
    do_pad: bool | None


def read_model_config(path: Path, error: type[ZooError] = WeightsError) -> dict[str, Any]:
    """Read a ``config.json`` that transformers wrote.

    Raises:
        ZooError: of the class ``error``; not a JSON object, or a value of the wrong type.
    """
    return checked_model_config(read_json_object(path, error), path, error)


def checked_model_config(config: dict[str, Any], origin: object, error: type[ZooError] = WeightsError) -> dict[str, Any]:
    """Return a model's config of transformers if its values have possible types; nested configs are checked too.

    Raises:
        ZooError: of the class ``error``, with file, key, value and what is allowed.
    """
    left = {"num_attention_heads"} if config.get("model_type") in HEADS_OF_STAGES else set()
    check({key: value for key, value in config.items() if key not in left}, ModelConfig, origin, error, REMEDY)
    refuse_depth(config, origin, error)
    for name in NESTED:
        inner = config.get(name)
        if inner is None:
            continue
        check(inner, dict[str, Any], f"{origin}: {name}", error, REMEDY)
        checked_model_config(inner, f"{origin}: {name}", error)
    return config


def read_generation_config(path: Path) -> dict[str, Any]:
    """Read a ``generation_config.json``; an absent file gives an empty config.

    Raises:
        WeightsError: not a JSON object, or a value of the wrong type.
    """
    if not path.exists():
        return {}
    return check(read_json_object(path, WeightsError), GenerationConfig, path, WeightsError, REMEDY)  # type: ignore[return-value]


def checked_image_settings(settings: Any, origin: object) -> dict[str, Any]:
    """Return an image processor's settings if their types are possible.

    Raises:
        ConfigError: with file, key, value and what is allowed.
    """
    check(settings, ImageProcessorConfig, origin, ConfigError, REMEDY)
    factor = settings.get("rescale_factor")
    if factor is not None and not 0 < factor < float("inf"):
        raise ConfigError(f"{origin}: rescale_factor: got {factor!r}; allowed is a number above 0, usually 1/255")
    return settings

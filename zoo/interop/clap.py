"""transformers' ``ClapModel`` <-> our system of the encoders ``htsat`` and ``bert`` and the head ``clip``.

Reference: transformers 5.17, ``modeling_clap.py``, ``configuration_clap.py`` and ``feature_extraction_clap.py``. The buffers with positions
and offsets that its files hold are no weights and are left out.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.files import GENERATION, IMAGES, TOKENIZERS, TRANSFORMERS
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import read_optional
from zoo.interop.base.placing import take_part
from zoo.interop.base.recognise import library_config
from zoo.interop.base.rules import joined, named, scalar, under
from zoo.interop.base.source import Source
from zoo.interop.base.transformers_config import count, refuse_others, side
from zoo.interop.text_encoders import bert, roberta
from zoo.interop.text_encoders.format import GIVEN
from zoo.interop.text_encoders.write import word_files
from zoo.processors.media.clap_mel import VIEW_FRAMES, settings_of
from zoo.processors.tokenizers.library_tokenizers import read_tokenizer
from zoo.registry import find_part, register
from zoo.types import FeatureHead, is_system

ORIGIN, TARGET, MODEL_TYPE = "transformers", "transformers' ClapModel", "clap"
AUDIO_DEFAULTS = {  # of ClapAudioConfig
    **{"num_mel_bins": 64, "spec_size": 256, "patch_size": 4, "patch_stride": 4, "patch_embeds_hidden_size": 96, "hidden_size": 768},
    **{"depths": [2, 2, 6, 2], "num_attention_heads": [4, 8, 16, 32], "window_size": 8, "mlp_ratio": 4.0, "layer_norm_eps": 1e-5},
    **{"enable_fusion": False, "fusion_type": None, "hidden_act": "gelu", "patch_embed_input_channels": 1, "flatten_patch_embeds": True},
    **{"enable_patch_layer_norm": True, "qkv_bias": True, "aff_block_r": 4},
}
AUDIO_LEGAL = {  # values of which ours has only these
    **{"fusion_type": (None, "aff_2d"), "hidden_act": ("gelu",), "patch_embed_input_channels": (1,), "flatten_patch_embeds": (True,)},
    **{"enable_patch_layer_norm": (True,), "qkv_bias": (True,), "aff_block_r": (4,)},
}
TEXT_DEFAULTS = {"type_vocab_size": 1, "max_position_embeddings": 514}  # of ClapTextConfig; the others are RobertaConfig's
DEFAULTS = {"projection_dim": 512, "projection_hidden_act": "relu"}  # of ClapConfig
PREPROCESSOR = "preprocessor_config.json"
FRONT_END_FILES = {PREPROCESSOR: (), "processor_config.json": ("feature_extractor",)}  # file: keys down to the extractor's settings
BUFFERS = ("position_ids", "token_type_ids", "relative_position_index")
CHANGED = ("running_mean", "running_var", "num_batches_tracked")
HEAD_LEGAL = {"loss": ("info_nce",), "two_scales": (True,), "anchor": (None,)}
PROJECTION = "mlp_relu"


def _norm(theirs: str, ours: str) -> list[rules.Rule]:
    """Return the rules of a BatchNorm."""
    return named({f"{theirs}.{name}": f"{ours}.{name}" for name in ("weight", "bias", *CHANGED)})


def _squeeze(theirs: str, ours: str, first: int) -> list[rules.Rule]:
    """Return the rules of one branch of the fusion weights, whose layers count from ``first`` in theirs: convolution, norm, ReLU, again."""
    convolutions = named({f"{theirs}.{first + place}.{{w}}": f"{ours}.{place}.{{w}}" for place in (0, 3)})
    return [*convolutions, *(rule for place in (1, 4) for rule in _norm(f"{theirs}.{first + place}", f"{ours}.{place}"))]


BLOCK = [
    joined([f"attention.self.{name}.{{w}}" for name in ("query", "key", "value")], "attention.qkv.{w}"),
    *named(
        {
            "attention.self.relative_position_bias_table": "attention.bias",
            "attention.output.dense.{w}": "attention.out.{w}",
            "layernorm_before.{w}": "norm1.{w}",
            "layernorm_after.{w}": "norm2.{w}",
            "intermediate.dense.{w}": "mlp.fc1.{w}",
            "output.dense.{w}": "mlp.fc2.{w}",
        }
    ),
]
AUDIO = [
    *_norm("batch_norm", "input_norm"),
    *named(
        {
            "patch_embed.proj.{w}": "patch.{w}",
            "patch_embed.norm.{w}": "patch_norm.{w}",
            "patch_embed.mel_conv2d.{w}": "fusion.parts.{w}",
            "layers.{i}.downsample.norm.{w}": "merges.{i}.norm.{w}",
            "layers.{i}.downsample.reduction.weight": "merges.{i}.project.weight",
            "norm.{w}": "norm.{w}",
        }
    ),
    *_squeeze("patch_embed.fusion_model.local_att", "fusion.local_weights", 0),
    *_squeeze("patch_embed.fusion_model.global_att", "fusion.global_weights", 1),  # their first layer is the mean over all places
    *under("layers.{i}.blocks.{j}.", "stages.{i}.blocks.{j}.", BLOCK),
]
HEAD = [
    *named(
        {
            f"{modality}_projection.linear{place}.{{w}}": f"head.projections.{modality}.{2 * place - 2}.{{w}}"
            for modality in ("audio", "text")
            for place in (1, 2)
        }
    ),
    scalar("logit_scale_a", "head.logit_scale"),
    scalar("logit_scale_t", "head.logit_scale_second"),
]
SYSTEM = [
    *under("audio_model.audio_encoder.", "encoders.audio.", AUDIO),
    *under("text_model.", "encoders.text.", bert.MODEL),
    *HEAD,
]


@register("format")
class Claps(Format):
    """Systems of the encoders ``htsat`` and ``bert`` with the head ``clip``."""

    targets = ("transformers",)
    takes = "systems of the encoders 'htsat' and 'bert' with the head 'clip'"
    model_types = (MODEL_TYPE,)
    files = {**TRANSFORMERS, **TOKENIZERS, **IMAGES, **GENERATION}

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Return the whole system; the front end is that of the feature extractor, or without its file the one that fits the encoder."""
        config = library_config(source, self)
        assert source.directory is not None
        system = system_of(config)
        spectrum = "clap_fusion" if system["encoders"]["audio"]["fusion"] else "clap"
        refuse_other_sound(source.directory, spectrum, system["encoders"]["audio"]["num_mels"])
        found = read_tokenizer(source.directory, model_type=MODEL_TYPE)
        audio = {"spectrum": spectrum, **({} if spectrum == "clap_fusion" else {"too_long": "cut"})}
        padding = system["encoders"]["text"]["padding_row"]
        text = {**GIVEN, "eot_token_id": 2, "pad_token_id": padding} if found is None else dict(found.settings)
        system = {"name": source.name, **system, "processor": {"audio": audio, "text": text}}
        return Description({"system": system}, None if found is None else found.tokenizer)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part."""
        return take_part(to_zoo(source.tensors), source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return the files of a ``ClapModel``."""
        return clap_export(model)


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the names of a whole ``ClapModel``."""
    wanted = {"audio_model.audio_encoder.batch_norm.weight", "text_model.embeddings.word_embeddings.weight", "logit_scale_a"}
    return wanted <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict of a ``ClapModel``, as it is in memory or in a file, to that of our system.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    weights = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in BUFFERS}
    return rules.to_zoo(weights, SYSTEM, origin=ORIGIN, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our system to that of a ``ClapModel``, which makes the buffers itself.

    Raises:
        WeightsError: a tensor has no place in theirs.
    """
    return rules.from_zoo(tensors, SYSTEM, origin=ORIGIN)


def system_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``clap`` to encoders and head of our system.

    Raises:
        ConfigError: our parts do not have something that the source has.
    """
    whole = {**DEFAULTS, **config}
    refuse_others(whole, {"projection_hidden_act": ("relu",)}, "our projection mlp_relu")
    text = {**TEXT_DEFAULTS, **(config.get("text_config") or {}), "model_type": roberta.MODEL_TYPE}
    head = {"name": "clip", "embed_dim": count(whole, "projection_dim"), "projections": PROJECTION, "two_scales": True}
    words = {"name": "bert", **roberta.arguments(text)}
    return {"encoders": {"audio": {"name": "htsat", **audio_arguments(config.get("audio_config") or {})}, "text": words}, "head": head}


def audio_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an ``audio_config`` to keywords of our ``htsat``.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    whole = {**AUDIO_DEFAULTS, **config}
    refuse_others(whole, AUDIO_LEGAL, "our htsat")
    patch, stride = side(whole, "patch_size"), side(whole, "patch_stride")
    depths, num_heads = (_counts(whole, key) for key in ("depths", "num_attention_heads"))
    dim = count(whole, "patch_embeds_hidden_size") * 2 ** (len(depths) - 1)
    refuse_others(whole, {"hidden_size": (dim,)}, f"our htsat of {len(depths)} stages")
    refuse_others({"patch_stride": stride}, {"patch_stride": (patch,)}, "our htsat")
    spec_size, num_mels = count(whole, "spec_size"), count(whole, "num_mel_bins")
    return {
        "num_mels": num_mels,
        "spec_size": spec_size,
        "patch_size": patch,
        "dim": dim,
        "depths": depths,
        "num_heads": num_heads,
        "window": count(whole, "window_size"),
        "mlp_ratio": float(whole["mlp_ratio"]),
        "fusion": bool(whole["enable_fusion"]),
        "view_frames": min(VIEW_FRAMES, spec_size * (spec_size // num_mels)),
        "eps": float(whole["layer_norm_eps"]),
    }


def _counts(config: Mapping[str, Any], key: str) -> list[int]:
    """Return a number for each stage.

    Raises:
        ConfigError: the value is no list of whole numbers above 0.
    """
    values = config[key]
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"{key}: got {values!r}; allowed is a list of whole numbers, one for each stage")
    return [count({f"{key}[{place}]": value}, f"{key}[{place}]") for place, value in enumerate(values)]


def refuse_other_sound(directory: Path, spectrum: str, num_mels: int) -> None:
    """Raise ConfigError if the feature extractor of a directory makes other mels than ours, or those of the other kind of encoder."""
    ours = {**settings_of(spectrum), "feature_size": num_mels}
    for name, keys in FRONT_END_FILES.items():
        settings: Any = read_optional(directory / name)
        for key in keys:
            settings = settings.get(key) or {}
        for key, value in ours.items():
            got = settings.get(key)
            if got not in (None, value):
                raise ConfigError(
                    f"{directory / name}: {key}: got {got!r}; the mels of our {spectrum!r} front end have {value!r}, and no other"
                )


def clap_export(model: nn.Module) -> Export | None:
    """Return config.json, model.safetensors, preprocessor_config.json and the tokenizer's files; None for a model of another family.

    Raises:
        ConfigError: transformers does not have something that the system has; the message names the key.
    """
    if not is_system(model) or set(model.encoders) != {"audio", "text"} or not isinstance(model.head, FeatureHead):
        return None
    if model.config["encoders"]["audio"]["name"] != "htsat":
        return None
    audio, text, head = (
        _whole(kind, config)
        for kind, config in (
            ("encoder", model.config["encoders"]["audio"]),
            ("encoder", model.config["encoders"]["text"]),
            ("head", model.config["head"]),
        )
    )
    config = _config(audio, text, head)
    processor: Any = model.processor
    words = None if processor is None else processor.get("text")
    spectrum = "clap_fusion" if audio["fusion"] else "clap"
    files = {
        "config.json": config,
        PREPROCESSOR: {**settings_of(spectrum), "feature_size": audio["num_mels"], "processor_class": "ClapProcessor"},
    }
    if words is not None and words.tokenizer is not None:
        if words.pad_token_id != text["padding_row"]:
            raise ConfigError(
                f"processor.text.pad_token_id: {words.pad_token_id}, but encoders.text.padding_row is {text['padding_row']}; {TARGET} has "
                "one number for both"
            )
        files |= word_files(words)
        config["text_config"]["eos_token_id"] = words.eot_token_id
    return Export(files, lambda: from_zoo(model.state_dict()))


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a config, completed with the defaults."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **config}


def _config(audio: Mapping[str, Any], text: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``config.json`` for all keywords of our parts.

    Raises:
        ConfigError: theirs does not have something that ours has; the message names the key of the system.
    """
    if text["name"] != "bert" or text["pool"] != "cls_tanh":
        raise ConfigError(
            f"encoders.text: {text['name']} with pool {text.get('pool')}, which {TARGET} does not have; allowed is 'bert', pool cls_tanh"
        )
    given = head["projections"]
    kinds = dict.fromkeys(("audio", "text"), given) if isinstance(given, str) else given
    for modality in ("audio", "text"):
        if kinds.get(modality) != PROJECTION:
            raise ConfigError(
                f"head.projections.{modality}: {kinds.get(modality, 'linear')!r}, which {TARGET} does not have; allowed is {PROJECTION!r}"
            )
    try:
        refuse_others(head, HEAD_LEGAL, TARGET)
    except ConfigError as error:
        raise ConfigError(f"head.{error}") from error
    theirs = roberta.config(text)
    for key in ("model_type", "architectures"):
        del theirs[key]
    stages = len(audio["depths"])
    sound = {
        "model_type": "clap_audio_model",
        "num_mel_bins": audio["num_mels"],
        "spec_size": audio["spec_size"],
        "patch_size": audio["patch_size"],
        "patch_stride": [audio["patch_size"]] * 2,
        "patch_embeds_hidden_size": audio["dim"] // 2 ** (stages - 1),
        "hidden_size": audio["dim"],
        "depths": list(audio["depths"]),
        "num_attention_heads": list(audio["num_heads"]),
        "num_hidden_layers": stages,
        "window_size": audio["window"],
        "mlp_ratio": audio["mlp_ratio"],
        "enable_fusion": audio["fusion"],
        "layer_norm_eps": audio["eps"],
    }
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["ClapModel"],
        "audio_config": sound,
        "text_config": {**theirs, "model_type": "clap_text_model"},
        "projection_dim": head["embed_dim"],
        **{key: DEFAULTS[key] for key in ("projection_hidden_act",)},
    }

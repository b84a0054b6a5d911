"""Wrapper for any vision backbone of transformers.

Reference: transformers 5.17. This encoder runs transformers' own module, with its parameter names. Its registry entry
(``transformers/DIRECTORY``) is the parsed ``config.json``. If the config describes a model of images and text (CLIP, SigLIP, LLaVA), the
vision tower is built.

Where we differ: the computation is the same. ``last_hidden_state`` gives the tokens; a feature map [B, dim, rows, columns] is flattened in
row-major order. ``pooler_output`` gives the pooled vector. If there is no ``pooler_output``, the pooled vector is the class token; if
there is no class token either, it is the mean of the tokens.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.layers.hosted_backbone import flatten_map, freeze, try_out
from zoo.layers.hosted_transformers import import_transformers, parse_config, quiet_and_offline, read_into
from zoo.layers.intermediates import as_output
from zoo.layers.select import find_layers, find_state, select_places
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real

DEFAULT_SIZE = 224  # pixels, usual for ImageNet; for convolutional models, whose config has no image_size
REFUSED = {
    "timm_backbone": "it wraps a timm model; create that as timm/NAME",
    "timm_wrapper": "it wraps a timm model; create that as timm/NAME",
    "vit_mae": "it hides patches at random; to use only its encoder, set config.model_type=vit and pooler=false",
    "yolos": "its last tokens are detections, not image patches",
}
POSITIONS = (  # learned tokens and positions by their names in transformers; excluded from weight decay
    "class_embedding",
    "cls_token",
    "distillation_token",
    "position_embedding",
    "position_embeddings",
    "register_tokens",
    "relative_position_bias_table",
)


@register("encoder")
class Transformers(Encoder):
    """Image encoder that gives the last hidden state of a transformers model as tokens, and its pooled output.

    Args:
        config: the content of transformers' ``config.json``, including ``model_type``.
        image_size: height and width in pixels; None means the config's size, or 224 if it has none. Position tables are resized if
            transformers supports it for the model.
        pooler: False builds the model without a separate pooling layer, as in ``ViTModel``; checkpoints of classifiers have none.
        preprocessing: keywords of the image processor that the weights were trained with.

    Raises:
        ConfigError: transformers is not installed; or the config does not describe a vision backbone, requires custom code, or has
            a value that transformers refuses.
    """

    modality = "image"
    no_weight_decay = POSITIONS

    def __init__(
        self,
        *,
        config: dict[str, Any],
        image_size: int | None = None,
        pooler: bool = True,
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        library, parsed = import_transformers(), _parse(config)
        self.image_size = _side_of(parsed) if image_size is None else image_size
        self.preprocessing = dict(preprocessing or {})
        architecture = _architecture(parsed)
        leaves_out = not pooler and "add_pooling_layer" in inspect.signature(architecture.__init__).parameters
        self._build_keywords = {"add_pooling_layer": False} if leaves_out else {}

        def build() -> nn.Module:
            with quiet_and_offline():  # AutoModel may otherwise contact the hub
                return library.AutoModel.from_config(parsed, dtype=torch.get_default_dtype(), **self._build_keywords)

        self._resizes = "interpolate_pos_encoding" in inspect.signature(architecture.forward).parameters
        self._channels_last: bool | None = None  # memory order of feature maps; detected in the trial, whose images are square
        self.num_prefix_tokens = 0
        trial = try_out(build, self._encode, self.image_size, f"config (model_type {parsed.model_type})")
        self.dim, self.num_prefix_tokens = trial.dim, _prefix_tokens(parsed, trial.num_tokens, self.image_size)
        self.model = build()
        freeze(self.model, trial.unused)  # they get no gradient, for which DistributedDataParallel would wait

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch ..."] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode images to tokens [batch, num_tokens, dim] and pooled vectors [batch, dim].

        Args:
            mask: ignored; all encoders accept one, but images have no padding.

        Raises:
            DataError: the model does not support this image size.
        """
        try:
            tokens, pooled = self._encode(self.model, pixels)
        except ValueError as error:  # transformers raises it for unsupported image sizes
            raise DataError(f"pixels are {list(pixels.shape)}, which {type(self.model).__name__} refuses: {error}") from error
        return Encoded(tokens, pooled, all_real(tokens.shape[:2], tokens.device))

    def patches(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        mask: Bool[Tensor, "batch ..."] | None = None,
        *,
        layer: int | None = -2,
        class_token: bool = False,
    ) -> Encoded:
        """Return the tokens of one of the model's ``hidden_states`` without prefix tokens.

        If the hidden states differ in shape (hierarchical models), the last one is returned for every ``layer``.

        Args:
            layer: index into ``hidden_states``; None is the last hidden state, which many models normalise.
            class_token: put the first prefix token, if there is one, before the other tokens.

        Raises:
            ConfigError: ``layer`` does not exist.
            DataError: the model does not support this image size.
        """
        tokens = self(pixels).tokens if layer is None else self._hidden_state(pixels, layer)
        tokens = select_places(tokens, self.num_prefix_tokens, first=class_token)
        return Encoded(tokens, None, all_real(tokens.shape[:2], tokens.device))

    def intermediates(
        self,
        x: Float[Tensor, "batch 3 height width"],
        layers: Sequence[int] | None = None,
        *,
        mask: Bool[Tensor, "batch ..."] | None = None,
        normalise: bool = False,
        output: str = "tokens",
    ) -> list[Tensor]:
        """Return transformers' ``hidden_states`` after the first, which is the input of the first layer. See ``Encoder``.

        Raises:
            ConfigError: transformers has none of this model, or no such layer; or ``normalise``, since hidden states have no final norm.
        """
        if normalise:
            raise ConfigError("normalise: hidden states of transformers are not normalised; the tokens of the encoder itself may be")
        states = self.model(x, output_hidden_states=True, **self._resizing).get("hidden_states") or ()
        if not states:
            raise ConfigError(f"intermediates: {type(self.model).__name__} gives no hidden_states; choose another model")
        shown = [states[1:][i] for i in find_layers(layers, len(states) - 1)]
        tokens = [flatten_map(each, channels_last=bool(self._channels_last)) if each.ndim == 4 else each for each in shown]
        return as_output(tokens, output, x, self.num_prefix_tokens)

    @property
    def _resizing(self) -> dict[str, bool]:
        return {"interpolate_pos_encoding": True} if self._resizes else {}

    def _hidden_state(self, pixels: Tensor, layer: int) -> Float[Tensor, "batch num_tokens dim"]:
        try:
            output = self.model(pixels, output_hidden_states=True, **self._resizing)
        except ValueError as error:
            raise DataError(f"pixels are {list(pixels.shape)}, which {type(self.model).__name__} refuses: {error}") from error
        states, last = getattr(output, "hidden_states", None), output.last_hidden_state
        if not states or last.ndim != 3 or any(state.shape != last.shape for state in states):
            return flatten_map(last, channels_last=bool(self._channels_last)) if last.ndim == 4 else last
        find_state(layer, len(states) - 1)
        return states[layer]

    def _encode(self, model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = model(pixels, **self._resizing)
        tokens, pooled = getattr(output, "last_hidden_state", None), getattr(output, "pooler_output", None)
        if tokens is None:
            raise ConfigError(f"{type(model).__name__} gives {', '.join(output)}, but no last_hidden_state; it is not a backbone")
        if tokens.ndim == 4:
            # The trial image is square, so in a channels-last map the first two sizes are equal and differ from the third.
            if self._channels_last is None:
                self._channels_last = tokens.shape[1] == tokens.shape[2] != tokens.shape[3]
            tokens = flatten_map(tokens, channels_last=bool(self._channels_last))
        if pooled is not None:
            pooled = pooled.flatten(1)  # [B, dim] or [B, dim, 1, 1]
        # A pooled vector of another width (a projection) cannot be used, because the encoder has a single ``dim``.
        if pooled is None or pooled.shape[1] != tokens.shape[2]:
            pooled = tokens[:, 0] if self.num_prefix_tokens else tokens.mean(1)
        return tokens, pooled

    def read_native(self, source: Any) -> dict[str, Tensor] | None:
        """Return the weights of a directory that transformers saved; None for any other source."""
        if source.library != "transformers":
            return None
        return self.read_pretrained(source.directory, None if source.adapter is None else source.tensors)

    def read_pretrained(self, directory: str | Path, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the weights of a directory saved by transformers under this encoder's parameter names, without loading them.

        transformers reads them into this encoder's class and renames old parameter names. It takes the vision tower from CLIP and the
        backbone from a classifier. Only safetensors are read, and no code of the directory is run.

        Raises:
            WeightsError: the files are unreadable, or a weight is missing, unexpected or of the wrong shape.
        """
        model = read_into(self.model, directory, tensors, **self._build_keywords)
        return {f"model.{key}": tensor for key, tensor in model.state_dict().items()}


def _parse(config: Mapping[str, Any]) -> Any:
    """Return the ``PretrainedConfig`` of the backbone.

    Raises:
        ConfigError: the config requires custom code, its ``model_type`` is unknown or unsupported, or transformers refuses a value.
    """
    parsed = parse_config(config, REFUSED, example="vit")
    parsed = getattr(parsed, "vision_config", None) or parsed
    parsed.return_dict = True
    return parsed


def _architecture(parsed: Any) -> type:
    """Return transformers' class of a vision backbone; raise ConfigError if the config describes something else."""
    library = import_transformers()
    known = library.MODEL_MAPPING
    architecture = known[type(parsed)] if type(parsed) in known else None
    if isinstance(architecture, tuple) or architecture is None or architecture.main_input_name != "pixel_values":
        takes = getattr(architecture, "main_input_name", None)
        reason = "transformers has no single model class for it" if takes is None else f"its model takes {takes}, not pixel_values"
        raise ConfigError(f"config.model_type: {parsed.model_type!r} is not a vision backbone: {reason}")
    if getattr(parsed, "is_encoder_decoder", False):
        raise ConfigError(f"config.model_type: {parsed.model_type!r} is not a vision backbone: its output comes from a decoder")
    return architecture


def _side_of(parsed: Any) -> int:
    size = getattr(parsed, "image_size", None)
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1 or not isinstance(side := sides.pop(), int | None):
        raise ConfigError(f"config.image_size: got {size!r}; an encoder takes square images: give one number, or set image_size")
    return side or DEFAULT_SIZE


def _prefix_tokens(parsed: Any, num_tokens: int, image_size: int) -> int:
    """Return the number of prefix tokens: the tokens in excess of the grid of patches.

    Example: 224 pixels, patch_size 16 and 197 tokens give 197 - 14 * 14 = 1. A hierarchical model has fewer tokens than patches; the
    largest square is then taken as the grid: 50 tokens give 50 - 7 * 7 = 1.
    """
    patch_size = getattr(parsed, "patch_size", None)
    patch_size = patch_size[0] if isinstance(patch_size, list | tuple) else patch_size
    grid = (image_size // patch_size) ** 2 if isinstance(patch_size, int) else 0
    return num_tokens - grid if 0 < grid <= num_tokens else num_tokens - math.isqrt(num_tokens) ** 2

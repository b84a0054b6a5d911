"""Wrapper for any image model of timm.

Reference: timm 1.0. This encoder runs timm's own module, with its parameter names and without its classifier.

Where we differ: some models (MobileNetV3, VGG, EfficientViT) change the width of their features after pooling (``head_hidden_size`` is
not ``num_features``). We pool their features before that layer, so that tokens and pooled vector both have the width ``dim``. The later
layers count as part of the classifier: they stay in the state dict, but they are frozen.
"""

import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, WeightsError, first_line, name_choices
from zoo.layers.hosted_backbone import flatten_map, freeze, timm_preprocessing, try_out
from zoo.layers.intermediates import refuse_output
from zoo.layers.select import find_layers, find_state, select_places
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real


@register("encoder")
class Timm(Encoder):
    """Image encoder that gives timm's unpooled features as tokens and the input of timm's classifier as the pooled vector.

    Tokens are the prefix tokens (class token, registers), then the places in row-major order. ``preprocessing`` holds the keywords of
    the image processor that timm's weights of this name were trained with.

    Args:
        model: a name of ``timm.list_models()``; it may have a tag (``vit_base_patch16_224.augreg_in1k``), which selects the
            preprocessing.
        image_size: height and width in pixels; None means the model's own size.
        drop_path: largest rate of stochastic depth.
        pool: timm's ``global_pool`` ("token", "avg", "map", ...), if it is not the model's own; open_clip's towers set it.
        preprocessing: keywords of the image processor that the weights were trained with; None means those of timm's ``pretrained_cfg``.
        pretrained_cfg: entries of timm's ``pretrained_cfg`` (mean, std, crop, ...) that replace those of the name, for weights of other
            origin.

    Raises:
        ConfigError: timm is not installed or has no such model, or the model does not support ``image_size`` or ``drop_path``.
    """

    modality = "image"

    def __init__(
        self,
        *,
        model: str,
        image_size: int | None = None,
        drop_path: float = 0.0,
        pool: str | None = None,
        preprocessing: dict[str, Any] | None = None,
        pretrained_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        library, defaults = _import_timm(), _defaults(model)
        if not 0 <= drop_path < 1:
            raise ConfigError(f"drop_path: got {drop_path}; allowed is 0 to below 1")
        self.model_name, self._preprocessing = model, preprocessing
        self.image_size = _square_side(model, defaults.input_size) if image_size is None else image_size
        keywords: dict[str, Any] = {"img_size": self.image_size} if defaults.fixed_input_size else {}
        if drop_path:
            keywords["drop_path_rate"] = drop_path
        if pool is not None:
            keywords["global_pool"] = pool
        if pretrained_cfg:
            keywords["pretrained_cfg_overlay"] = dict(pretrained_cfg)
        self._build_keywords = keywords

        def build() -> nn.Module:
            return library.create_model(model, pretrained=False, num_classes=0, **keywords)

        # A trial on the meta device finds width, number of tokens and unused weights, for which timm has no uniform attributes.
        try:
            trial = try_out(build, _encode, self.image_size, f"timm/{model}")
        except ConfigError as error:
            raise _explained(error, model, image_size, drop_path) from error
        self.model = build()
        self.dim, self.num_prefix_tokens = trial.dim, _prefix_tokens(self.model)
        freeze(self.model, trial.unused)  # they get no gradient, for which DistributedDataParallel would wait

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Keywords of the image processor: the given ones, or those of timm's ``pretrained_cfg``."""
        return timm_preprocessing(self._pretrained) if self._preprocessing is None else dict(self._preprocessing)

    @property
    def no_weight_decay(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of parameters that timm does not decay."""
        listed = getattr(self.model, "no_weight_decay", None)
        return tuple(listed()) if listed is not None else ()

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
            tokens, pooled = _encode(self.model, pixels)
        except AssertionError as error:  # timm checks image sizes with asserts
            raise DataError(f"pixels are {list(pixels.shape)}, which timm/{self.model_name} refuses: {error}") from error
        return Encoded(tokens, pooled, all_real(tokens.shape[:2], tokens.device))

    def patches(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        mask: Bool[Tensor, "batch ..."] | None = None,
        *,
        layer: int | None = -2,
        class_token: bool = False,
    ) -> Encoded:
        """Return the tokens of one layer without prefix tokens.

        ``layer`` has an effect only in a plain stack of blocks (ViT, DeiT, EVA); other models always give their last features.

        Args:
            layer: index as in transformers' ``hidden_states``: -1 is the output of the last block without the final norm, -2 that of
                the block before. None is the last output with the final norm.
            class_token: put the class token, if there is one, before the other tokens.

        Raises:
            ConfigError: ``layer`` does not exist.
            DataError: the model does not support this image size.
        """
        depth = self._num_even_blocks
        class_token = class_token and self.num_prefix_tokens > 0 and getattr(self.model, "has_class_token", True)
        if layer is None or not depth:
            tokens = select_places(self(pixels).tokens, self.num_prefix_tokens, first=class_token)
            return Encoded(tokens, None, all_real(tokens.shape[:2], tokens.device))
        number = find_state(layer, depth)
        if not number:  # timm cannot return hidden state 0, the input of the first block
            raise ConfigError(
                f"layer {layer}: timm/{self.model_name} gives only the outputs of its {depth} blocks; allowed is {-depth} to {depth}, not 0"
            )
        try:
            (found,) = self.model.forward_intermediates(  # type: ignore[operator]
                pixels,
                indices=[number - 1],
                norm=False,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
                **({"return_prefix_tokens": True} if class_token else {}),
            )
        except AssertionError as error:  # timm checks image sizes with asserts
            raise DataError(f"pixels are {list(pixels.shape)}, which timm/{self.model_name} refuses: {error}") from error
        tokens = torch.cat([found[1][:, :1], found[0]], dim=1) if class_token else found  # [B, 1 + places, dim]
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
        """Return timm's ``forward_intermediates``: of blocks, or of stages in a model of several widths. See ``Encoder``.

        Tokens hold no prefix tokens.

        Raises:
            ConfigError: timm has no intermediates of this model, or no such block.
        """
        try:
            run: Any = self.model.forward_intermediates
        except AttributeError as error:
            raise ConfigError(f"intermediates: timm has none of timm/{self.model_name}; choose another model") from error
        wanted = find_layers(layers, len(self.model.feature_info))  # type: ignore[arg-type]
        # Maps, because convolutional models have no other format here; timm gives them in the order of depth.
        maps = run(x, indices=sorted(set(wanted)), norm=normalise, stop_early=True, output_fmt="NCHW", intermediates_only=True)
        found = dict(zip(sorted(set(wanted)), maps, strict=True))
        refuse_output(output)
        return [found[i] if output == "map" else flatten_map(found[i]) for i in wanted]

    @property
    def _num_even_blocks(self) -> int:
        """Number of blocks if all have the same width and number of tokens and timm can return their outputs, otherwise 0."""
        shown = inspect.signature(getattr(self.model, "forward_intermediates", lambda: None)).parameters
        stages, blocks = getattr(self.model, "feature_info", []), getattr(self.model, "blocks", [])
        even = len(stages) == len(blocks) and len({(s["num_chs"], s["reduction"]) for s in stages}) == 1
        return len(blocks) if even and {"norm", "output_fmt", "stop_early"} <= set(shown) else 0

    def read_native(self, source: Any) -> dict[str, Tensor] | None:
        """Return the weights of a source with timm's names; ``timm://NAME`` is downloaded at this encoder's image size.

        None for weights that share no name with timm's model, for example a file with this encoder's own names.
        """
        if source.timm:
            return self.from_timm(source.fetched(lambda: self._download(source.timm)))
        return self.from_timm(source.tensors) if source.keys & self.model.state_dict().keys() else None

    def from_timm(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of timm, with or without classifier, to the parameter names of this encoder.

        Unknown tensors inside the classifier's module are dropped (``head.bn`` before LeViT's ``head.linear``). All other unknown
        tensors are kept, so that strict loading reports them.
        """
        names = self._pretrained["classifier"] or ()
        heads = {name.split(".")[0] for name in ((names,) if isinstance(names, str) else names)}
        known = self.model.state_dict().keys()
        return {f"model.{key}": tensor for key, tensor in tensors.items() if key in known or key.split(".")[0] not in heads}

    def read_pretrained(self, name: str | None = None) -> dict[str, Tensor]:
        """Return timm's pretrained weights at this image size under this encoder's parameter names, without loading them.

        timm reads them from its cache or downloads them, and resizes positions and windows.

        Args:
            name: name of weights of the same architecture (``resnet18.a1_in1k``); None means this model's own name.

        Raises:
            WeightsError: timm has no weights of that name, or they cannot be downloaded.
        """
        name = self.model_name if name is None else name
        try:
            return self.from_timm(self._download(name))
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsError(f"timm://{name}: cannot be downloaded ({first_line(error)}); check the name and the network") from error

    def _download(self, name: str) -> dict[str, Tensor]:
        with torch.device("cpu"):  # the classifier is built too, because timm loads strictly only then
            return _import_timm().create_model(name, pretrained=True, **self._build_keywords).state_dict()

    @property
    def _pretrained(self) -> Mapping[str, Any]:
        return self.model.pretrained_cfg  # type: ignore[return-value]


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError("model: needs timm; install it with: zoo install vision") from error
    return timm


def _defaults(model: str) -> Any:
    """Return timm's ``PretrainedCfg`` of a model name; raise ConfigError if timm does not know the name."""
    timm = _import_timm()
    names = timm.list_models()
    tagged = timm.list_models(f"{model.partition('.')[0]}.*", include_tags=True)
    if model not in names and model not in tagged:
        raise ConfigError(f"model: timm has no model {model!r}; {name_choices(model, tagged or names)} (see: zoo list 'timm/*')")
    return timm.get_pretrained_cfg(model)


def _square_side(model: str, input_size: tuple[int, int, int]) -> int:
    channels, height, width = input_size
    if channels != 3 or height != width:
        raise ConfigError(
            f"image_size: timm/{model} takes {channels} channels of {height} x {width} pixels; an encoder takes square images with 3 "
            f"channels: set image_size, for example {min(height, width)}"
        )
    return height


def _explained(error: ConfigError, model: str, image_size: int | None, drop_path: float) -> ConfigError:
    """Return the error with the config key that caused it (``drop_path``, ``model`` or ``image_size``) at its front."""
    if isinstance(error.__cause__, TypeError) and "drop_path_rate" in str(error.__cause__):
        return ConfigError(f"drop_path: got {drop_path}, but timm/{model} has no stochastic depth; allowed is 0")
    return ConfigError(f"{'model' if image_size is None else 'image_size'}: {error}")


def _prefix_tokens(model: Any) -> int:
    """Return the number of prefix tokens; VOLO and PiT do not declare it, so their class token is counted."""
    token = getattr(model, "cls_token", None)
    return getattr(model, "num_prefix_tokens", 0 if token is None else token.shape[1])


def _encode(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens and the pooled vector of a timm model."""
    features = model.forward_features(pixels)
    if not isinstance(features, Tensor):
        raise ConfigError(f"gives {len(features)} feature tensors instead of one; choose another model")
    is_map = features.ndim == 4  # a feature map [B, C, H, W] or, in Swin and others, [B, H, W, C]
    tokens = flatten_map(features, channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC") if is_map else features
    if getattr(model, "head_hidden_size", model.num_features) != model.num_features:
        return tokens, tokens[:, _prefix_tokens(model) :].mean(1)
    return tokens, model.forward_head(features, pre_logits=True)

"""Any image model of timm.

Reference: timm 1.0, which is itself what runs here: its module, under its own names of parameters, without classifier.

Where we differ: a model that widens its features behind the pooling (``head_hidden_size`` is not ``num_features``, as in
MobileNetV3, VGG or EfficientViT) is pooled before that, so that ``dim`` is the width of tokens and pooled vector alike; those
last layers belong to its classifier and are kept, but not trained.
"""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, WeightsError, name_choices
from zoo.layers.hosted_backbone import flatten_map, freeze, try_out
from zoo.layers.select import find_state, select_places
from zoo.registry import register
from zoo.types import Encoded

RESIZES = {"center": "crop", "squash": "squash", "border": "border"}  # timm's crop_mode: our resize


@register("encoder")
class Timm(nn.Module):
    """Image to timm's unpooled features as tokens (prefix tokens first, then row-major), and what its classifier would read.

    ``preprocessing`` are the keywords of the image processor that timm's weights of that name were trained with.

    Args:
        model: a name of ``timm.list_models()``, perhaps with a tag (``vit_base_patch16_224.augreg_in1k``), which chooses the
            preprocessing.
        image_size: height and width in pixels; None takes the model's own.
        drop_path: largest rate of stochastic depth.

    Raises:
        ConfigError: timm is not installed or has no such model, or the model does not take such images or a drop path.
    """

    modality = "image"

    def __init__(self, *, model: str, image_size: int | None = None, drop_path: float = 0.0) -> None:
        super().__init__()
        library, defaults = _import_timm(), _defaults(model)
        if not 0 <= drop_path < 1:
            raise ConfigError(f"drop_path: got {drop_path}; allowed is 0 to below 1")
        self.model_name = model
        self.image_size = _square_side(model, defaults.input_size) if image_size is None else image_size
        keywords: dict[str, Any] = {"img_size": self.image_size} if defaults.fixed_input_size else {}
        if drop_path:
            keywords["drop_path_rate"] = drop_path

        def build() -> nn.Module:
            return library.create_model(model, pretrained=False, num_classes=0, **keywords)

        try:
            trial = try_out(build, _encode, self.image_size, f"timm/{model}")
        except ConfigError as error:
            raise _explained(error, model, image_size, drop_path) from error
        self.model = build()
        self.dim, self.num_prefix_tokens = trial.dim, _prefix_tokens(self.model)
        freeze(self.model, trial.unused)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Keywords of the image processor, from timm's ``pretrained_cfg``."""
        config = self._pretrained
        return {
            "resize": RESIZES[config["crop_mode"]],
            "interpolation": config["interpolation"],
            "crop_fraction": config["crop_pct"],
            "mean": list(config["mean"]),
            "std": list(config["std"]),
        }

    def forward(self, pixels: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch ..."] | None = None) -> Encoded:
        """``mask`` is accepted for the contract; images have no padding.

        Raises:
            DataError: a size that the model does not take.
        """
        try:
            tokens, pooled = _encode(self.model, pixels)
        except AssertionError as error:  # so timm refuses sizes
            raise DataError(f"pixels are {list(pixels.shape)}, which timm/{self.model_name} refuses: {error}") from error
        return Encoded(tokens, pooled, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def patches(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        mask: Bool[Tensor, "batch ..."] | None = None,
        *,
        layer: int | None = -2,
        class_token: bool = False,
    ) -> Encoded:
        """Tokens of places alone; of a plain stack of blocks (ViT, DeiT, EVA) after one of them, of others always the last.

        Args:
            layer: as transformers numbers ``hidden_states`` from the end: -1 is the last block's output without the final norm, -2
                the one before; None is the last, normalised.
            class_token: before them the class token too, where there is one.

        Raises:
            ConfigError: there is no such layer.
            DataError: a size that the model does not take.
        """
        depth = self._num_even_blocks
        class_token = class_token and self.num_prefix_tokens > 0 and getattr(self.model, "has_class_token", True)
        if layer is None or not depth:
            tokens = select_places(self(pixels).tokens, self.num_prefix_tokens, first=class_token)
            return Encoded(tokens, None, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))
        number = find_state(layer, depth)
        if not number:
            raise ConfigError(
                f"layer {layer}: timm/{self.model_name} shows what its {depth} blocks give; allowed is {-depth} to {depth}, not 0"
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
        except AssertionError as error:  # so timm refuses sizes
            raise DataError(f"pixels are {list(pixels.shape)}, which timm/{self.model_name} refuses: {error}") from error
        tokens = torch.cat([found[1][:, :1], found[0]], dim=1) if class_token else found  # [B, 1 + places, dim]
        return Encoded(tokens, None, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    @property
    def _num_even_blocks(self) -> int:
        """Blocks of a plain stack, all of one width and number of tokens; 0 where the model is none, or does not show them."""
        shown = inspect.signature(getattr(self.model, "forward_intermediates", lambda: None)).parameters
        stages, blocks = getattr(self.model, "feature_info", []), getattr(self.model, "blocks", [])
        even = len(stages) == len(blocks) and len({(s["num_chs"], s["reduction"]) for s in stages}) == 1
        return len(blocks) if even and {"norm", "output_fmt", "stop_early"} <= set(shown) else 0

    def from_timm(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of timm, with or without classifier, under the names of this encoder.

        What lies beside the classifier and has no place here is left out (``head.bn`` before LeViT's ``head.linear``); anything
        else that does not fit stays, for strict loading to find.
        """
        names = self._pretrained["classifier"] or ()
        heads = {name.split(".")[0] for name in ((names,) if isinstance(names, str) else names)}
        known = self.model.state_dict().keys()
        return {f"model.{key}": tensor for key, tensor in tensors.items() if key in known or key.split(".")[0] not in heads}

    def read_pretrained(self, name: str | None = None) -> dict[str, Tensor]:
        """Timm's pretrained weights at this image size, under the names of this encoder; nothing is loaded yet.

        timm takes them from its cache or fetches them, and resizes positions and windows.

        Args:
            name: of weights of the same architecture (``resnet18.a1_in1k``); None for this model's own.

        Raises:
            WeightsError: timm has no weights of that name, or they cannot be fetched.
        """
        name = self.model_name if name is None else name
        sizes = {"img_size": self.image_size} if self._pretrained["fixed_input_size"] else {}
        try:
            with torch.device("cpu"):  # with its classifier, because only then timm itself loads strictly
                tensors = _import_timm().create_model(name, pretrained=True, **sizes).state_dict()
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(f"timm://{name}: cannot be fetched ({reason}); check the name and the network") from error
        return self.from_timm(tensors)

    @property
    def _pretrained(self) -> Mapping[str, Any]:
        return self.model.pretrained_cfg  # type: ignore[return-value]


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError("model: needs timm; install it with: pip install 'multimodal-zoo[vision]'") from error
    return timm


def _defaults(model: str) -> Any:
    """Timm's ``PretrainedCfg`` of a name."""
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
            f"image_size: timm/{model} takes {channels} channels of {height} x {width} pixels; an encoder takes 3 channels of a "
            f"square: set image_size, for example {min(height, width)}"
        )
    return height


def _explained(error: ConfigError, model: str, image_size: int | None, drop_path: float) -> ConfigError:
    """The same error under the key that is to blame."""
    if isinstance(error.__cause__, TypeError) and "drop_path_rate" in str(error.__cause__):
        return ConfigError(f"drop_path: got {drop_path}, but timm/{model} has no stochastic depth; allowed is 0")
    return ConfigError(f"{'model' if image_size is None else 'image_size'}: {error}")


def _prefix_tokens(model: Any) -> int:
    """Tokens before those of places, as the model says; VOLO and PiT say it by their class token alone."""
    token = getattr(model, "cls_token", None)
    return getattr(model, "num_prefix_tokens", 0 if token is None else token.shape[1])


def _encode(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and pooled vector of a model of timm."""
    features = model.forward_features(pixels)
    if not isinstance(features, Tensor):
        raise ConfigError(f"gives {len(features)} sets of features instead of one; choose another model")
    is_map = features.ndim == 4
    tokens = flatten_map(features, channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC") if is_map else features
    if getattr(model, "head_hidden_size", model.num_features) != model.num_features:
        return tokens, tokens[:, _prefix_tokens(model) :].mean(1)
    return tokens, model.forward_head(features, pre_logits=True)

"""transformers' Qwen2-VL, Qwen2.5-VL and Qwen3-VL <-> our ``qwen_vision``, ``llava`` with connector ``patch_merger``, and ``causal_lm``.

Papers: Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191); Bai et al. 2025, "Qwen2.5-VL" (arXiv 2502.13923); Qwen team 2025, "Qwen3-VL" (arXiv
2511.21631). Reference: transformers 5.17, ``modeling_qwen2_vl.py``, ``modeling_qwen2_5_vl.py``, ``modeling_qwen3_vl.py``.

Files of 2 and 2.5 call the tower ``visual.*`` and the language model ``model.*``; those of 3, and models in memory, ``model.visual.*`` and
``model.language_model.*``. Both are read. Older configs hold the keys of the language model beside ``vision_config``.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.image_preprocessing import interpolation_of, normalisation_of, shared_settings
from zoo.interop.base.rules import Rule, named, under
from zoo.interop.base.transformers_config import count, refuse_others, side
from zoo.interop.causal_lm import configs, transformers_causal_lm
from zoo.interop.causal_lm.write import whole_keywords
from zoo.interop.vlm.family import Family
from zoo.layers.tilers.fit import Fit
from zoo.processors.image import ImageProcessor
from zoo.types import Tiler
from zoo.types.processor import CLIP_MEAN, CLIP_STD

ORIGIN = "transformers"
FRAMES = 2  # pictures that a patch projects; a still is doubled
NOMINAL = 4  # merged patches along a side of the nominal picture
IMAGE, TOWER, OURS = "head.connectors.image.", "encoders.image.", "head.language."
_TEXT: dict[str, Any] = {
    **{"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64},
    **{"num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "max_window_layers": 80},
}


def block(mlp: Sequence[Rule]) -> list[Rule]:
    """Return the rules of a block of the tower, given those of its feed-forward part."""
    names = {f"norm{i}.{{w}}": f"norm{i}.{{w}}" for i in (1, 2)}
    return [*named({**names, "attn.qkv.{w}": "attention.qkv.{w}", "attn.proj.{w}": "attention.out.{w}"}), *mlp]


def _patch() -> Rule:
    """Return the rule of the projection of patches, which is a convolution in theirs."""
    return Rule(
        ("visual.patch_embed.proj.weight",),
        (f"{TOWER}patch.weight",),
        lambda t: [t[0].flatten(1)],
        lambda t: [t[0].unflatten(1, (3, FRAMES, (side := math.isqrt(t[0].shape[1] // (3 * FRAMES))), side))],
    )


class Qwen(Family):
    """Base class of the three generations.

    Attributes:
        text_type: ``model_type`` of a language model without pictures that has the same form.
        text: defaults of ``text_config``.
        vision: defaults of ``vision_config``.
        sections: default of the pairs of channels of each axis.
        theta: default of the rotary positions.
        tower: keywords of our encoder that all sizes of the generation share.
        tower_rules: names of the tower's blocks and of the mergers, below ``visual.``.
        nested: True if files have the names of models in memory.
        video: options of our tiler for videos that all sizes of the generation share.
        video_size: smallest and largest number of pixels of a video processor whose file does not say them.
        video_tokens: its limit of tokens, which ``cap_pixels_per_frame`` switches on.
        video_processor: class of transformers that is written.
    """

    processor_class = "Qwen2VLProcessor"
    tiler = Fit
    template = "chatml"
    encoder = "qwen_vision"
    marker = "<|image_pad|>"
    conversation: ClassVar[Mapping[str, Any]] = {"spans": {"image": ["<|vision_start|>", "<|vision_end|>"]}}
    tokenizer_words: ClassVar[Mapping[str, str]] = {"image_token": "<|image_pad|>"}
    other_markers: ClassVar[Mapping[str, str]] = {
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    text_type: ClassVar[str]
    text: ClassVar[Mapping[str, Any]] = _TEXT
    vision: ClassVar[Mapping[str, Any]]
    sections: ClassVar[tuple[int, ...]] = (16, 24, 24)
    theta: ClassVar[float] = 1e6
    tower: ClassVar[Mapping[str, Any]]
    tower_rules: ClassVar[Sequence[Rule]]
    nested: ClassVar[bool] = False
    video: ClassVar[Mapping[str, Any]] = {"time": "order", "shared": False}
    video_size: ClassVar[tuple[int, int]] = (128 * 28 * 28, 768 * 28 * 28)
    video_tokens: ClassVar[int] = 128_000
    video_processor: ClassVar[str] = "Qwen2VLVideoProcessor"

    def recognises(self, keys: Collection[str]) -> bool:
        return self._sign() in keys or f"model.{self._sign()}" in keys

    def _sign(self) -> str:
        """Return the name of a tensor that no other generation has."""
        raise NotImplementedError

    def fits(self, tiler: Tiler | None, config: Mapping[str, Any]) -> bool:
        image = config["encoders"].get("image") or {}
        if not isinstance(tiler, Fit) or image.get("name") != self.encoder:
            return False
        whole = _with_lists(whole_keywords("encoder", image))
        return all(whole[key] == value for key, value in self.tower.items())

    def system(self, config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
        vision = {**self.vision, **(config.get("vision_config") or {})}
        channels = {
            "in_channels": vision.get("in_channels", vision.get("in_chans", 3)),
            "temporal_patch_size": vision["temporal_patch_size"],
        }
        refuse_others(channels, {"in_channels": (3,), "temporal_patch_size": (FRAMES,)}, "our qwen_vision")
        rope = vision.get("rope_parameters") or {}
        refuse_others({"rope_type": rope.get("rope_type", "axial")}, {"rope_type": ("axial", "default")}, "our qwen_vision")
        merge, patch, stack = count(vision, "spatial_merge_size"), side(vision, "patch_size"), self._stack(vision)
        words = self._words(config, keys)
        image = {
            "name": self.encoder,
            **{"image_size": NOMINAL * merge * patch, "patch_size": patch, "depth": count(vision, "depth")},
            **{"num_heads": count(vision, "num_heads"), "rope_theta": float(rope.get("rope_theta", 10_000.0)), "frames": FRAMES},
            **self.tower,
            **self._sizes(vision, merge, patch),
        }
        if self._out(vision) != words["dim"]:
            raise ConfigError(
                f"vision_config: vectors of {self._out(vision)} channels come out of the tower, but text_config.hidden_size is "
                f"{words['dim']}; allowed is the same number in both"
            )
        merger = {"kind": "patch_merger", "factor": merge, "norm": self.tower["norm"], "eps": 1e-6, "deepstack": len(stack)}
        language = {"name": "causal_lm", **words, "deepstack": len(stack)}
        head = {"name": "llava", "language": language, "connectors": {"image": merger}, "feature_layer": None}
        return {"encoders": {"image": image}, "head": head}

    def _words(self, config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
        """Return the keywords of the language model."""
        text = {**self.text, **(config.get("text_config") or {key: value for key, value in config.items() if key != "vision_config"})}
        rope = {"rope_theta": text.pop("rope_theta", None) or self.theta, **(text.pop("rope_scaling", None) or {})}
        rope |= text.pop("rope_parameters", None) or {}
        sections, interleaved = rope.pop("mrope_section", list(self.sections)), rope.pop("mrope_interleaved", self.interleaved)
        if interleaved != self.interleaved:
            raise ConfigError(f"mrope_interleaved: got {interleaved!r}; model type {self.model_types[0]} has {self.interleaved}")
        kind = rope.pop("type", None) if "rope_type" not in rope else rope.pop("rope_type")
        tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
        if keys:  # a tied projection is not written
            tied = "lm_head.weight" not in keys
        rope = {**rope, "rope_type": "default" if kind in (None, "mrope") else kind}
        words = configs.arguments({**text, "model_type": self.text_type, "rope_parameters": rope, "tie_word_embeddings": tied})
        return {**words, "rope_sections": list(sections), "rope_interleaved": self.interleaved}

    @property
    def interleaved(self) -> bool:
        """True if the axes of rotary positions take turns."""
        return False

    def _sizes(self, vision: Mapping[str, Any], merge: int, patch: int) -> dict[str, Any]:
        """Return the keywords of our encoder that this generation's ``vision_config`` names in its own way."""
        raise NotImplementedError

    def _their_sizes(self, image: Mapping[str, Any], merge: int, dim: int) -> dict[str, Any]:
        """Undo ``_sizes``; ``dim`` is the width of the language model."""
        raise NotImplementedError

    def _their_time(self, processor: ImageProcessor) -> dict[str, Any]:
        """Return the keys of ``vision_config`` for the time of videos."""
        return {}

    def _out(self, vision: Mapping[str, Any]) -> int:
        return count(vision, "out_hidden_size")

    def _stack(self, vision: Mapping[str, Any]) -> list[int]:
        return []

    def images(self, settings: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
        pixels = _pixels(settings, 3136, 1_003_520)
        refuse_others(
            {"temporal_patch_size": FRAMES, "do_resize": True, **settings},
            {"temporal_patch_size": (FRAMES,), "do_resize": (True, None)},
            f"zoo's image processor ({origin})",
        )
        patch = side({"patch_size": 14, **settings}, "patch_size")
        preprocessing = {
            "patch_size": patch,
            "interpolation": interpolation_of({"resample": 3, **settings}, origin),
            **normalisation_of({"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), **settings}, origin),
        }
        merge = count({"merge_size": 2, **settings}, "merge_size")
        return preprocessing, {"tiler": {"kind": "fit", "patch_size": patch, "merge": merge, **pixels}}

    def video_options(
        self, config: Mapping[str, Any], settings: Mapping[str, Any], origin: str, preprocessing: Mapping[str, Any]
    ) -> dict[str, Any]:
        refuse_others(
            {"temporal_patch_size": FRAMES, "do_resize": True, **settings},
            {"temporal_patch_size": (FRAMES,), "do_resize": (True, None)},
            f"zoo's image processor ({origin})",
        )
        if "image_mean" in settings and "image_std" in settings:
            own = normalisation_of(settings, origin)
            refuse_others(
                own, {key: (preprocessing[key],) for key in own}, f"zoo's image processor, which reads pictures and videos ({origin})"
            )
        most = count({"max_video_tokens": self.video_tokens, **settings}, "max_video_tokens")
        limits = _pixels(settings, *self.video_size) | ({"most_tokens": most} if settings.get("cap_pixels_per_frame") else {})
        return {"video": {"frames": FRAMES, **self.video, **limits}}

    def video_preprocessor(self, processor: ImageProcessor) -> dict[str, Any] | None:
        tiler = processor.tiler
        assert isinstance(tiler, Fit)
        if tiler.video is None:
            return None
        given = {key: getattr(tiler.video, key) for key in self.video}
        refuse_others(
            {f"processor.image.tiler.video.{key}": value for key, value in given.items()},
            {f"processor.image.tiler.video.{key}": (value,) for key, value in self.video.items()},
            f"transformers' {self.video_processor}",
        )
        return {
            **shared_settings(processor),
            "video_processor_type": self.video_processor,
            "cap_pixels_per_frame": tiler.video.most_tokens is not None,
            **({} if tiler.video.most_tokens is None else {"max_video_tokens": tiler.video.most_tokens}),
            "size": {"shortest_edge": tiler.video.min_pixels, "longest_edge": tiler.video.max_pixels},
            **{"patch_size": tiler.patch_size, "merge_size": tiler.merge, "temporal_patch_size": FRAMES, "do_convert_rgb": True},
        }

    def to_zoo(self, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
        renamed = {_flat(name): tensor for name, tensor in tensors.items()}
        words = {name: tensor for name, tensor in renamed.items() if not name.startswith("visual.")}
        language = transformers_causal_lm.to_zoo(words, tied=tied)
        placed = rules.to_zoo({n: t for n, t in renamed.items() if n not in words}, self._rules(), origin=ORIGIN)
        return {**placed, **{OURS + name: tensor for name, tensor in language.items()}}

    def from_zoo(self, tensors: Mapping[str, Tensor], language: Mapping[str, Any]) -> dict[str, Tensor]:
        words = {name.removeprefix(OURS): tensor for name, tensor in tensors.items() if name.startswith(OURS)}
        theirs = transformers_causal_lm.from_zoo(words, _plain(language))
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(OURS)}
        found = {**rules.from_zoo(rest, self._rules(), origin=ORIGIN), **theirs}
        return {_nested(name): tensor for name, tensor in found.items()} if self.nested else found

    def _rules(self) -> list[Rule]:
        return [_patch(), *under("visual.", "", self.tower_rules)]

    def language(self, words: Mapping[str, Any]) -> dict[str, Any]:
        found = configs.config(_plain(words))
        if found["model_type"] != self.text_type:
            raise ConfigError(
                f"export: transformers' {self.architecture} has a language model of the form of {self.text_type}, but this one has that of "
                f"{found['model_type']}; save the system with zoo.save"
            )
        found["rope_parameters"] |= {"mrope_section": list(words["rope_sections"] or ())}
        found["rope_parameters"] |= {"mrope_interleaved": True} if self.interleaved else {}
        return {**found, "model_type": f"{self.model_types[0]}_text"}

    def config(
        self, image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], processor: ImageProcessor, marker: int
    ) -> dict[str, Any]:
        back_end, image = f"transformers' {self.architecture}", _with_lists(image)
        word = head["connectors"].get("image", "mlp")
        merger = {"kind": "", "factor": 2, "norm": "layer", "eps": 1e-6, "deepstack": 0, "newline": False}
        merger |= {"kind": word} if isinstance(word, str) else word
        legal: dict[str, Collection[Any]] = {"kind": ("patch_merger",), "norm": (self.tower["norm"],), "eps": (1e-6,), "newline": (False,)}
        refuse_others({f"connectors.image.{k}": merger[k] for k in legal}, {f"connectors.image.{k}": v for k, v in legal.items()}, back_end)
        refuse_others({"feature_layer": head["feature_layer"]}, {"feature_layer": (None,)}, back_end)
        own: dict[str, Collection[Any]] = {key: (value,) for key, value in self.tower.items() if key != "activation"}
        own |= {"eps": (1e-6,), "frames": (FRAMES,), "final_norm": (False,), "pool": ("mean",)}
        refuse_others({f"encoders.image.{k}": image[k] for k in own}, {f"encoders.image.{k}": v for k, v in own.items()}, back_end)
        axes = {"rope_interleaved": (self.interleaved,), "deepstack": (len(image["deepstack"]),)}
        refuse_others({f"language.{k}": language[k] for k in axes}, {f"language.{k}": v for k, v in axes.items()}, back_end)
        if language["rope_sections"] is None:
            raise ConfigError(
                f"language.rope_sections: got None, which {back_end} does not have; set three numbers and train the model with them"
            )
        vision = {
            "model_type": f"{self.model_types[0]}_vision",
            **{"depth": image["depth"], "num_heads": image["num_heads"], "in_channels": 3, "patch_size": image["patch_size"]},
            **{"spatial_merge_size": merger["factor"], "temporal_patch_size": FRAMES},
            "rope_parameters": {"rope_type": "axial", "rope_theta": image["rope_theta"]},
            **self._their_sizes(image, merger["factor"], language["dim"]),
            **self._their_time(processor),
        }
        return {
            "vision_config": vision,
            "text_config": self.language(language),
            "image_token_id": marker,
            "tie_word_embeddings": language["tied"],
        }

    def marker_ids(self, tokenizer: Any, marker: int) -> dict[str, int]:
        found = {} if tokenizer is None else {key: tokenizer.token_to_id(word) for key, word in self.other_markers.items()}
        return {key: number for key, number in found.items() if number is not None}

    def preprocessor(self, processor: ImageProcessor, per_tile: int) -> dict[str, Any]:
        tiler = processor.tiler
        assert isinstance(tiler, Fit)
        return {
            **shared_settings(processor),
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": tiler.min_pixels, "longest_edge": tiler.max_pixels},
            **{"patch_size": tiler.patch_size, "merge_size": tiler.merge, "temporal_patch_size": FRAMES, "do_convert_rgb": True},
        }

    def processor_config(self, config: Mapping[str, Any], per_tile: int, prefix: int) -> dict[str, Any]:
        return {}


def _pixels(settings: Mapping[str, Any], least: int, most: int) -> dict[str, int]:
    """Return the limits of the pixels of a picture or video, given those of a processor whose file says none."""
    size = settings.get("size") or {}
    size = size if isinstance(size, Mapping) else {}
    names = (("min_pixels", "shortest_edge", least), ("max_pixels", "longest_edge", most))
    return {key: count({key: settings.get(key) or size.get(key) or size.get(new) or plain}, key) for key, new, plain in names}


def _plain(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of the language model without those that only pictures need."""
    return {**words, "rope_sections": None, "rope_interleaved": False, "deepstack": 0}


def _with_lists(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords with lists in place of tuples, as configs have them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in keywords.items()}


def _flat(name: str) -> str:
    """Return the name that a file of 2-VL or 2.5-VL has, of one in a file of 3-VL or in memory."""
    for theirs, short in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(theirs):
            return short + name.removeprefix(theirs)
    return name


def _nested(name: str) -> str:
    """Undo ``_flat``."""
    if name.startswith("model."):
        return f"model.language_model.{name.removeprefix('model.')}"
    return f"model.{name}" if name.startswith("visual.") else name

"""A language model that is shown pictures and sound: connectors, and features among the vectors of its token ids.

Papers: Liu et al. 2023, "Visual Instruction Tuning" (LLaVA, arXiv 2304.08485), sections 4.1 and 4.2; 2310.03744 (LLaVA-1.5). Reference:
transformers ``modeling_llava.py``.

Where we differ: any encoder of images or audio, any number of items in a conversation, any connector; and none of it: a system without
encoders is a plain language model. Padding is not computed, so that short conversations need not be packed into one row.
"""

from collections.abc import Mapping
from typing import Any

from zoo.heads.bases.multimodal_lm import Talking
from zoo.registry import register
from zoo.types import EncoderSpec, LanguageModel

CONNECTORS = {"image": "mlp", "audio": "downsampler"}  # where the config says nothing


@register("head")
class Llava(Talking):
    """Features at their placeholders, then the language model; cross entropy of the supervised tokens.

    Args:
        inputs: what the encoders give, by modality.
        language: a causal language model.
        connectors: by modality a word of ``zoo.layers.connector.CONNECTORS``, or a mapping with its options: ``{kind: resampler,
            num_latents: 64}``. Modalities without an encoder are left out, and those not named take LLaVA-1.5's MLP for images and a
            downsampler for audio.
        feature_layer: of encoders that show their layers: -2 is the output of the block before the last, without the final norm
            (LLaVA), -1 that of the last; None the last, normalised. See ``zoo.types.encode``.

    Raises:
        ConfigError: an unknown connector or modality, one that cannot work on what the encoder gives, or one that makes as many tokens
            of an image as the language model takes.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        language: LanguageModel,
        connectors: Mapping[str, str | Mapping[str, Any]] = CONNECTORS,
        feature_layer: int | None = -2,
    ) -> None:
        super().__init__(inputs=inputs, language=language, connectors={**CONNECTORS, **connectors}, feature_layer=feature_layer)

"""LLaVA head: a language model that reads image and audio features, mapped by connectors, among its token embeddings.

Papers: Liu et al. 2023, "Visual Instruction Tuning" (LLaVA, arXiv 2304.08485), sections 4.1 and 4.2; 2310.03744 (LLaVA-1.5). Reference:
transformers ``modeling_llava.py``.

Differences: any encoder of images or audio, any number of items in a conversation, any connector. A system without encoders is a plain
language model. Padding is not computed, so short conversations need not be packed into one row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError
from zoo.heads.bases.multimodal_lm import MultimodalLM
from zoo.registry import register
from zoo.types import EncoderSpec, LanguageModel

CONNECTORS = {"image": "mlp", "audio": "downsampler"}  # defaults for modalities that the config does not name


@register("head")
class Llava(MultimodalLM):
    """Multimodal language model with features at their placeholders; cross entropy of the supervised tokens.

    Args:
        inputs: output specs of the encoders, by modality.
        language: a causal language model.
        connectors: by modality a file of ``zoo/layers/connectors/`` or a plug-in, or a mapping with its options: ``{kind: resampler,
            num_latents: 64}``. Entries for modalities without an encoder are ignored. The default is LLaVA-1.5's MLP for images and a
            downsampler for audio.
        feature_layer: encoder layer whose output the connectors read, if the encoder can return it: -2 is the block before the last,
            without the final norm (LLaVA); -1 the last block; None the last block, after the final norm. A list gives the features of
            several layers, one behind the other. See ``zoo.types.encode``.
        class_token: True gives the connectors the class token before the patches, if the encoder has one.
        prefix: True lets the tokens of a prompt, pictures included, see each other; those of the answer see earlier ones only (PaliGemma).

    Raises:
        ConfigError: a connector or modality is unknown, a connector does not fit the encoder's output, or it makes so many tokens of
            one item that they fill the context of the language model.
    """

    silent_keywords = ("feature_layer", "class_token", "prefix")

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        language: LanguageModel,
        connectors: Mapping[str, str | Mapping[str, Any]] = CONNECTORS,
        feature_layer: int | Sequence[int] | None = -2,
        class_token: bool = False,
        prefix: bool = False,
    ) -> None:
        super().__init__(inputs=inputs, language=language, connectors={**CONNECTORS, **connectors}, feature_layer=feature_layer)
        self.class_token, self.prefix = class_token, prefix
        if prefix and not language.sees_prefix:
            raise ConfigError(
                "prefix: true, but the language model has no prefix whose tokens see each other; allowed is false, or a causal_lm"
            )

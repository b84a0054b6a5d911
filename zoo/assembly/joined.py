"""Encoders made of others with their weights: a classifier in the space of a text encoder, and a fusion of image encoders."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.assembly.build import build_processor
from zoo.assembly.system import System
from zoo.encoders.conse import ConSE
from zoo.encoders.fusion import Fusion
from zoo.errors import ConfigError
from zoo.layers.adapters import KEY as ADAPTERS
from zoo.registry.construct import build_part
from zoo.types import Encoder, config_of, encode

TEXTS_AT_ONCE = 64


def semantic_encoder(
    classifier: System, text: System | Encoder, *, texts: Sequence[Sequence[str]] | None = None, top_k: int = 10, temperature: float = 1.0
) -> ConSE:
    """Return a classifier as an encoder in the space of a text encoder (``zoo.encoders.conse``).

    Args:
        classifier: a system with the head ``classifier``.
        text: a text encoder with its processor, or a system that has one.
        texts: one or more texts for each class, whose unit vectors are averaged; None takes the class names. Broader words beside the
            name ("golden retriever, sporting dog, dog") bring the classes nearer to labels that people choose.
        top_k: number of the likeliest classes that count.
        temperature: divides the logits.

    Raises:
        ConfigError: the system is no classifier, it has adapters, or the texts are not one list for each class.
    """
    config, head = classifier.config, classifier.head
    if "logits" not in head.verbs or config.get(ADAPTERS):
        lack = "has adapters; merge them first" if config.get(ADAPTERS) else f"has the head {type(head).__name__}"
        raise ConfigError(f"classifier: {classifier.name} {lack}; allowed is a system with the head 'classifier'")
    names = [[name] for name in head.class_names or ()] if texts is None else list(texts)
    if len(names) != head.num_classes or not all(names):
        raise ConfigError(f"texts: got {len(names)} lists of texts for {head.num_classes} classes; give one or more texts for each class")
    ((modality, encoder),) = config["encoders"].items()
    vectors = _mean_vectors(text, names)
    arguments: dict[str, Any] = {"name": "conse", "encoder": encoder, "head": {**config["head"], "num_classes": head.num_classes}}
    arguments |= {"dim": vectors.shape[1], "top_k": top_k, "temperature": temperature}
    made: ConSE = build_part("encoder", arguments, "encoder")
    made.encoder.load_state_dict(classifier.encoders[modality].state_dict())
    made.head.load_state_dict(head.state_dict())
    made.with_names(vectors).remember({"encoder": arguments}, classifier.processor)
    return made.eval()


@torch.inference_mode()
def _mean_vectors(text: System | Encoder, texts: Sequence[Sequence[str]]) -> Tensor:
    """Return the mean of the unit vectors of each class's texts [classes, dim]."""
    flat = [each for own in texts for each in own]
    parts = [_pooled(text, flat[i : i + TEXTS_AT_ONCE]) for i in range(0, len(flat), TEXTS_AT_ONCE)]
    vectors = F.normalize(torch.cat(parts).float(), dim=-1).split([len(own) for own in texts])
    return torch.stack([own.mean(0) for own in vectors]).clone()


def _pooled(text: System | Encoder, texts: list[str]) -> Tensor:
    if isinstance(text, System):
        pooled = text.encode("text", texts, reads="pooled").pooled
    elif text.processor is None or text.modality != "text":
        raise ConfigError(f"text: {type(text).__name__} has no processor of texts; load it with zoo.load from a directory with a tokenizer")
    else:
        pooled = encode(text, *text.processor["text"](texts), reads="pooled").pooled
    assert pooled is not None, "refused when the system was built"
    return pooled


def fused_encoder(encoders: Sequence[Encoder], *, gate: str = "fixed", shares: Sequence[float] | None = None) -> Fusion:
    """Return image encoders as the members of one fusion, with their weights (``zoo.encoders.fusion``).

    Args:
        encoders: each built or loaded alone, so that it has its config.
        gate: "fixed" or "item".
        shares: initial weight of each; None gives all 1.

    Raises:
        ConfigError: an encoder has no config, or cannot be a member.
    """
    configs = [config_of(encoder).get("encoder") for encoder in encoders]
    if None in configs:
        number = configs.index(None)
        raise ConfigError(f"encoders[{number}]: {type(encoders[number]).__name__} has no config; load it alone with zoo.load")
    arguments: dict[str, Any] = {"name": "fusion", "encoders": configs, "gate": gate}
    made: Fusion = build_part("encoder", arguments | ({} if shares is None else {"shares": list(shares)}), "encoder")
    for ours, theirs in zip(made.encoders, encoders, strict=True):
        ours.load_state_dict(theirs.state_dict())
    made.remember({"encoder": arguments}, build_processor({}, {"image": made}, "encoder"))
    return made.eval()

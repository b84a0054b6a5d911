"""Readings: foreign tensors under our names, one for each format that recognises them."""

from collections.abc import Iterator, Mapping
from types import ModuleType

from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo.interop import tacotron2 as torchaudio_tacotron2
from zoo.interop import vig
from zoo.interop.base.source import Source, is_foreign
from zoo.interop.causal_lm.describe import language_readings
from zoo.interop.clip import open_clip, transformers_clip
from zoo.interop.kosmos2.describe import kosmos_readings
from zoo.interop.llava.describe import llava_readings
from zoo.interop.text_encoders import albert as transformers_albert
from zoo.interop.text_encoders import bert as transformers_bert
from zoo.interop.text_encoders import roberta as transformers_roberta
from zoo.interop.text_encoders import t5 as transformers_t5
from zoo.interop.vit import timm_vit, transformers_dinov2, transformers_vit
from zoo.interop.whisper import encoder as whisper
from zoo.interop.whisper import system as whisper_system
from zoo.layers.adapters import KEY as ADAPTERS
from zoo.layers.adapters import can_be_folded, merged_tensors
from zoo.types import SystemLike, is_system

SYSTEM_ORIGINS = (open_clip, transformers_clip, torchaudio_tacotron2, whisper_system)  # their weights are those of a whole system
ENCODER_ORIGINS = (
    timm_vit,
    vig,
    transformers_vit,
    transformers_dinov2,
    transformers_bert,
    transformers_roberta,
    transformers_albert,
    transformers_t5,
    whisper,
)  # one encoder, perhaps with a classifier
ENCODER = "encoder"  # the part of a foreign source that is left when its classifier is dropped


def readings(target: nn.Module, found: Source, part: str) -> Iterator[Mapping[str, Tensor]]:
    tensors = found.tensors
    yield _below(tensors, part) or tensors
    adapters = (found.config or {}).get("system", {}).get(ADAPTERS)
    if can_be_folded(adapters):  # a target without them takes the weights that they were folded into
        yield _below(merged_tensors(tensors, adapters), part)
    if hasattr(target, "from_timm"):  # a backbone of another library reads that library's weights itself
        yield target.from_timm(tensors)  # type: ignore[operator]
        return
    if hasattr(target, "read_pretrained"):
        if found.directory is not None and is_foreign(found.directory):
            yield target.read_pretrained(found.directory)  # type: ignore[operator]
        return
    yield from language_readings(target, tensors)
    yield from llava_readings(target, tensors, part)
    yield from kosmos_readings(target, tensors, part)
    for origin in SYSTEM_ORIGINS:
        if origin.recognises(tensors):
            converted = origin.to_zoo(tensors)
            yield converted if transformers_clip.is_tower(tensors) else _below(converted, part)  # a lone tower is an encoder itself
            if not is_system(target) and not part:
                yield _below(converted, "head")
    for origin in ENCODER_ORIGINS:
        if origin.recognises(tensors):
            yield _system_reading(target, origin, tensors) if is_system(target) else _encoder_reading(target, origin, found, part)


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part under its own names; "" is the whole."""
    prefix = f"{part}." if part else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _system_reading(system: SystemLike, origin: ModuleType, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder and its classifier as a system of one encoder and the head ``classifier``; one that never has any, as an encoder."""
    trunk, (modality, *_) = origin.to_zoo(tensors, drop=origin.CLASSIFIER), system.encoders
    if not hasattr(origin, "classifier_to_zoo"):
        return {f"encoders.{modality}.{name}": tensor for name, tensor in trunk.items()}
    return {f"encoders.{modality}.{name}": tensor for name, tensor in trunk.items()} | {
        f"head.{name}": tensor for name, tensor in origin.classifier_to_zoo(tensors).items()
    }


def _encoder_reading(target: nn.Module, origin: ModuleType, found: Source, part: str) -> dict[str, Tensor]:
    classifier = sorted(name for name in found.tensors if name.startswith(tuple(f"{word}." for word in origin.CLASSIFIER)))
    if classifier and not part:
        raise WeightsError(
            f"{found.origin}: holds a classifier too ({', '.join(classifier[:2])}, ...), for which an encoder has no place. Load the "
            f"encoder alone with weights_parts=[{ENCODER!r}], or both into a system with the head 'classifier'. Nothing was loaded."
        )
    pooler = getattr(origin, "POOLER", ()) if getattr(target, "pooler", None) is None else ()
    return origin.to_zoo(found.tensors, drop=[*origin.CLASSIFIER, *pooler])

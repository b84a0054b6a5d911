"""Place converted tensors: an encoder with its classifier, or a whole system, under the names of the part that takes them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo.interop.base.source import Source
from zoo.types import Encoder, Head, LanguageModel, encoders_of, head_of, is_system

ENCODER = "encoder"  # word for the encoder of a source without its classifier
LANGUAGE = "head.language"  # part of a system that holds its language model


@dataclass(frozen=True)
class EncoderNames:
    """Names that one library gives to the tensors of an encoder and of the classifier beside it.

    Attributes:
        recognises: returns True for the names of such a model.
        to_zoo: converts the encoder's tensors; ``drop`` lists names to leave out.
        classifier: first words of the classifier's names.
        classifier_to_zoo: converts the classifier's tensors to those of our head; None if no head of ours takes them.
        pooler: names of a pooler, which an encoder that pools in another way does not take.
    """

    recognises: Callable[[Iterable[str]], bool]
    to_zoo: Callable[..., dict[str, Tensor]]
    classifier: Sequence[str] = ()
    classifier_to_zoo: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    pooler: Sequence[str] = ()


def recognised(names: Iterable[EncoderNames], keys: Collection[str]) -> EncoderNames | None:
    """Return the first of several namings that recognises the names of tensors; None if none does."""
    return next((each for each in names if each.recognises(keys)), None)


def read_encoder(names: EncoderNames, source: Source, modality: str, part: str, into: nn.Module | None) -> dict[str, Tensor]:
    """Convert an encoder, and its classifier if the part takes it.

    Raises:
        WeightsError: tensors do not fit, or an encoder alone is to take the weights of an encoder with a classifier.
    """
    tensors = source.tensors
    heads = sorted(name for name in tensors if name.startswith(tuple(f"{word}." for word in names.classifier)))
    encoder = encoder_in(into, modality)
    drop = [*names.classifier, *(names.pooler if encoder is not None and encoder.pooler is None else ())]
    whole = is_system(into) or (into is None and bool(heads))
    if part != ENCODER and (part or whole):
        wants_head = not part or part.split(".")[0] == "head"
        head = names.classifier_to_zoo(tensors) if names.classifier_to_zoo is not None and wants_head else {}
        placed = {f"encoders.{modality}.{name}": tensor for name, tensor in names.to_zoo(tensors, drop=drop).items()}
        return below(placed | {f"head.{name}": tensor for name, tensor in head.items()}, part)
    if heads and not part:
        raise WeightsError(
            f"{source.origin}: holds a classifier too ({', '.join(heads[:2])}, ...), for which an encoder has no place. Load the "
            f"encoder alone with weights_parts=[{ENCODER!r}], or both into a system with the head 'classifier'. Nothing was loaded."
        )
    return names.to_zoo(tensors, drop=drop)


def take_part(whole: Mapping[str, Tensor], source: Source, part: str, into: nn.Module | None) -> dict[str, Tensor]:
    """Return the tensors of a part of a whole system; a lone head or language model takes its own.

    Raises:
        WeightsError: an encoder alone is to take the weights of a whole system, and no part is named.
    """
    if part or into is None or is_system(into):
        return below(whole, part)
    if isinstance(into, LanguageModel | Head):
        return below(whole, LANGUAGE if isinstance(into, LanguageModel) else "head")
    raise whole_system(source, {name.split(".")[1] for name in whole if name.startswith("encoders.")})


def whole_system(source: Source, modalities: Iterable[str]) -> WeightsError:
    """Return the error for a whole system where one part is to be loaded."""
    parts = [f"encoders.{modality}" for modality in sorted(modalities)]
    return WeightsError(f"{source.origin}: holds a whole system; name the part with weights_parts=[...]: {', '.join([*parts, 'head'])}")


def below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part under its own names; "" is the whole."""
    prefix = f"{part}." if part else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def encoder_in(model: nn.Module | None, modality: str) -> Encoder | None:
    """Return the encoder of a modality in a system, in its encoders, or the encoder itself; None if there is none."""
    found = model[modality] if isinstance(model, nn.ModuleDict) and modality in model else encoders_of(model).get(modality)
    return found if isinstance(found, Encoder) else None


def language_in(model: nn.Module | None) -> LanguageModel | None:
    """Return the language model in a system or a head, or the language model itself; None if there is none."""
    if isinstance(model, LanguageModel):
        return model
    head = model if isinstance(model, Head) else head_of(model)
    return None if head is None else head.language

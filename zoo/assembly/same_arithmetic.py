"""Refuse weights whose model would compute something else with them than ours.

Shapes do not show every keyword: a ViT with 3 heads has the same tensors as one with 6. Each part lists such keywords in
``silent_keywords``, and those of our config are compared with the ones that the source describes.
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from zoo.assembly.system import System
from zoo.errors import ConfigError
from zoo.interop.base.format import Description, log
from zoo.interop.base.library_files import OPEN_CLIP_CONFIG
from zoo.interop.base.placing import LANGUAGE
from zoo.types import Connector, Encoder, Head, LanguageModel, Part, config_of

FREE_ALONE = ("eps", "pool", "normalise", "eot_token_id")  # of an encoder that is loaded alone, which may be pooled in another way
ROUNDED = ("eps", "embed_scale")  # libraries write these with few digits
ACTIVATION = "activation"
IMPLIED = ("num_kv_heads", "head_dim", "normalise")  # keywords whose defaults say what a source means that does not name them


@dataclass(frozen=True)
class Pair:
    """One part of our model, and the same part as a source describes it.

    Attributes:
        key: config key of our part, for messages.
        part: our part.
        ours: its config.
        theirs: the config that the source describes.
        words: keywords to compare.
    """

    key: str
    part: Part | Connector
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    words: Sequence[str]


def refuse_other_arithmetic(module: nn.Module, part: str, description: Description, origin: str) -> None:
    """Raise ConfigError if a part of ours would compute something else with weights than the model that they come from.

    If the weights do not tell their activation, the log says which one is used.

    Args:
        module: the whole model.
        part: dotted name of the part that is loaded; "" is the whole.
        description: of the source.
        origin: of the source, for messages.
    """
    for pair in _pairs(module, part, description.config):
        words = pair.words
        if isinstance(pair.part, Encoder) and not description.certain:
            _say_activation(origin, pair)
            words = [word for word in words if word != ACTIVATION]
        _refuse_differences(pair, words, origin)


def _pairs(module: nn.Module, part: str, theirs: Mapping[str, Any]) -> Iterator[Pair]:
    """Yield the parts of our model that weights are loaded into and that the source describes."""
    system = theirs.get("system", {})
    encoders: dict[str | None, Any] = system.get("encoders", {}) if system else {None: theirs["encoder"]}
    head = system.get("head", {})
    if not isinstance(module, System):
        yield from _alone(module, encoders, head)
        return
    whole = not part
    for modality, config in encoders.items():
        for name, ours in module.config.get("encoders", {}).items():
            if part in ("", "encoders", f"encoders.{name}") and modality in (None, name) and ours.get("name") == config["name"]:
                encoder: Any = module.encoders[name]
                words = [word for word in encoder.silent_keywords if whole or word not in FREE_ALONE]
                yield Pair(f"system.encoders.{name}", encoder, ours, config, words)
    if part in ("", "head", LANGUAGE):
        yield from _in_head(module.head, module.config.get("head") or {}, head, part)


def _alone(module: nn.Module, encoders: Mapping[str | None, Any], head: Mapping[str, Any]) -> Iterator[Pair]:
    config = config_of(module)
    if isinstance(module, Encoder) and (ours := config.get("encoder")):
        theirs = encoders.get(module.modality, encoders.get(None)) or {}
        if ours.get("name") == theirs.get("name"):
            yield Pair("encoder", module, ours, theirs, [word for word in module.silent_keywords if word not in FREE_ALONE])
    if isinstance(module, LanguageModel) and (ours := config.get("language")):
        yield from _language("language", module, ours, head)
    if isinstance(module, Head) and (ours := config.get("head")):
        yield Pair("head", module, ours, head, module.silent_keywords)


def _in_head(module: Head, ours: Mapping[str, Any], theirs: Mapping[str, Any], part: str) -> Iterator[Pair]:
    if module.language is not None and isinstance(ours.get("language"), Mapping):
        yield from _language(f"system.{LANGUAGE}", module.language, ours["language"], theirs)
    if part == LANGUAGE:
        return
    yield Pair("system.head", module, ours, theirs, module.silent_keywords)
    width = {} if module.language is None else {"out_dim": module.language.dim}
    for modality, connector in dict(module.connectors).items():
        mine, wanted = (_options(config.get("connectors"), modality) for config in (ours, theirs))
        if wanted:
            yield Pair(f"system.head.connectors.{modality}", connector, {**width, **mine}, {**width, **wanted}, connector.silent_keywords)


def _language(key: str, module: LanguageModel, ours: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[Pair]:
    theirs = head.get("language") or {}
    if ours.get("name") == theirs.get("name"):
        yield Pair(key, module, ours, theirs, module.silent_keywords)


def _options(connectors: Any, modality: str) -> dict[str, Any]:
    """Return the options of a modality's connector, which a config may give by its name alone."""
    words = connectors.get(modality) if isinstance(connectors, Mapping) else None
    return {"kind": words} if isinstance(words, str) else dict(words or {})


def differing_keywords(module: nn.Module, theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield config key, our value and theirs of each keyword that differs between a model and the config of another one.

    Only keywords that the shapes of the weights do not show are compared. One that a config does not name has its default.
    """
    for pair in _pairs(module, "", theirs):
        for word, mine, other in _differences(pair, pair.words, told_only=False):
            yield f"{pair.key}.{word}", mine, other


def _refuse_differences(pair: Pair, words: Sequence[str], origin: str) -> None:
    for word, ours, theirs in _differences(pair, words, told_only=True):
        raise ConfigError(
            f"{pair.key}.{word}: {ours!r}, but {origin} was trained with {theirs!r}, which no shape shows; set "
            f"{pair.key}.{word} to it, or let zoo.load build the model. Nothing was loaded."
        )


def _differences(pair: Pair, words: Sequence[str], *, told_only: bool) -> Iterator[tuple[str, Any, Any]]:
    """Yield keyword, our value and theirs; ``told_only`` leaves out keywords that their config neither names nor implies."""
    defaults = {word: p.default for word, p in inspect.signature(type(pair.part)).parameters.items()}
    ours, theirs = (pair.part.resolved({**defaults, **config}) for config in (pair.ours, pair.theirs))
    for word in words:
        told = not told_only or word in pair.theirs or (bool(pair.theirs) and word in IMPLIED)
        if told and not _same(word, ours[word], theirs[word]):
            yield word, ours[word], theirs[word]


def _same(word: str, ours: Any, theirs: Any) -> bool:
    return math.isclose(ours, theirs, rel_tol=1e-3) if word in ROUNDED else ours == theirs


def _say_activation(origin: str, pair: Pair) -> None:
    log.warning(
        "%s does not tell the activation that its weights were trained with; %s.activation=%s is used. Of OpenAI's weights and of "
        'those whose name says so it is quick_gelu, else gelu; write {"model_cfg": {"quick_gelu": true}} (or false) into %s beside it',
        *(origin, pair.key, pair.ours.get(ACTIVATION, "gelu"), OPEN_CLIP_CONFIG),
    )

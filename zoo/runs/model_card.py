"""Model cards: the README of a model on a hub, from facts of the model and the results of its tests."""

from collections.abc import Sequence
from typing import Any

import yaml
from torch import nn

import zoo
from zoo.assembly.summary import Summary, summarize
from zoo.assembly.system import System
from zoo.errors import ConfigError, name_choices
from zoo.evaluation.results.cards import read_card
from zoo.types import Encoder, LanguageModel, config_of, verbs_of

LICENCES = (  # identifiers that hubs know; of each family those in use
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "bsd", "isc", "zlib", "unlicense", "cc0-1.0", "wtfpl", "openmdw", "openmdw-1.0"),
    *("cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc"),
    *("gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "osl-3.0"),
    *("afl-3.0", "artistic-2.0", "bsl-1.0", "ecl-2.0", "ms-pl", "ncsa", "ofl-1.1", "postgresql", "odbl", "odc-by", "pddl"),
    *("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "bigscience-bloom-rail-1.0", "bigcode-openrail-m"),
    *("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "apple-amlr", "fair-noncommercial-research-license"),
    "other",
)
TASKS = {  # by verb: the hub's word for what a system does
    "transcribe": "automatic-speech-recognition",
    "synthesize": "text-to-speech",
    "generate": "image-text-to-text",
}


def checked_licence(licence: str | None) -> str:
    """Return the licence of weights that are published.

    Raises:
        ConfigError: none is given, or one that hubs do not know.
    """
    ways = "name that of the weights, for example license='apache-2.0'; 'other' if its text is in the repository"
    if not licence:
        raise ConfigError(f"license: none is given, and weights without a licence may not be used by anyone; {ways}")
    if licence not in LICENCES:
        raise ConfigError(f"license: got {licence!r}; {name_choices(licence.lower(), LICENCES)} ({ways})")
    return licence


def model_card(model: nn.Module, name: str, licence: str, data: Sequence[str], library: str = "zoo") -> str:
    """Return the text of a model's ``README.md``.

    Args:
        model: an encoder, language model or system.
        name: ``owner/name`` on the hub.
        licence: identifier of a licence.
        data: training data, in words; empty if unknown.
        library: library that reads the files.
    """
    head = yaml.safe_dump(_front(model, licence, library), sort_keys=False)
    known = "\n".join(f"* {each}" for each in data) or "Not recorded."
    parts = [f"---\n{head}---", f"# {name.rpartition('/')[2]}", _sentence(model), "## Use", _use(model, name)]
    parts += ["## Facts", _facts(summarize(model), model), "## Training data", known, *_verified(model)]
    return "\n\n".join(parts) + "\n"


def _front(model: nn.Module, licence: str, library: str) -> dict[str, Any]:
    """Return the entries that a hub reads: licence, library, task and tags."""
    parts = _parts(model)
    tags = sorted({"multimodal-zoo", *(parts.keys() - {"head"}), *(str(part["name"]) for part in parts.values())})
    return {"license": licence, "library_name": library, "pipeline_tag": _task(model), "tags": tags}


def _parts(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the configs of a model's parts: by modality, and "head"; of a part alone by its kind."""
    if not isinstance(model, System):
        return {kind: dict(part) for kind, part in config_of(model).items() if isinstance(part, dict)}
    config = model.config or {}
    return {**{m: dict(part) for m, part in config["encoders"].items()}, "head": dict(config["head"])}


def _task(model: nn.Module) -> str:
    """Return the hub's word for what a model does."""
    if isinstance(model, System):
        verbs, modality = verbs_of(model), next(iter(model.encoders), "text")
        if "classify" in verbs:
            return "zero-shot-image-classification" if "embed" in verbs else f"{modality}-classification"
        found = next((TASKS[verb] for verb in TASKS if verb in verbs), "feature-extraction")
        return "text-generation" if found == "image-text-to-text" and "image" not in model.encoders else found
    if isinstance(model, Encoder) and model.modality == "image":
        return "image-feature-extraction"
    return "text-generation" if isinstance(model, LanguageModel) else "feature-extraction"


def _sentence(model: nn.Module) -> str:
    if isinstance(model, System):
        parts = _parts(model)
        encoders = ", ".join(f"`{part['name']}` ({m})" for m, part in parts.items() if m != "head") or "none"
        return f"A system with the head `{parts['head']['name']}` (encoders: {encoders}), made with zoo {zoo.__version__}."
    ((kind, part),) = list(_parts(model).items())[:1]
    return f"One part, the {kind} `{part.get('name', type(model).__name__)}`, made with zoo {zoo.__version__}."


def _use(model: nn.Module, name: str) -> str:
    verbs = ", ".join(f"`{verb}`" for verb in verbs_of(model)) if isinstance(model, System) else ""
    then = f"\n\nVerbs: {verbs}." if verbs else ""
    return f'```python\nimport zoo\n\nmodel = zoo.load("hf://{name}")\n```{then}'


def _facts(summary: Summary, model: nn.Module) -> str:
    rows = [("parameters", f"{summary.parameters:,}"), ("memory", f"{summary.memory_bytes / 2**20:.1f} MB")]
    rows += [(f"parameters of {part}", f"{count:,}") for part, count in summary.parts.items()]
    rows += [(f"tokens ({what})", str(count)) for what, count in summary.tokens.items()]
    encoders = dict(model.encoders) if isinstance(model, System) else {"": model}
    for encoder in encoders.values():
        if isinstance(encoder, Encoder):
            sizes = {
                "pixels per side": encoder.image_size,
                "mel bands": encoder.num_mels,
                "longest input in tokens": encoder.context_length,
            }
            rows += [(f"{what} ({encoder.modality})", str(size)) for what, size in sizes.items() if size is not None]
    return "\n".join(["| fact | value |", "|---|---|", *(f"| {fact} | {value} |" for fact, value in rows)])


def _verified(model: nn.Module) -> list[str]:
    """Return the section of the verification card; empty if no test run has written one for a system of this name."""
    card = read_card(model.name) if isinstance(model, System) and model.name else None
    if card is None:
        return []
    about = (
        f"Tests of the architecture (family `{card['name']}`), the last at commit `{card['commit'][:12]}` on {card['date']}; they say "
        "nothing about how well these weights do their task."
    )
    lines = card["capabilities"].items()
    rows = [f"| {word} | {line['status']} | {line.get('figure') or line.get('reason') or ''} |" for word, line in lines]
    return ["## Verification", about, "\n".join(["| capability | status | figure |", "|---|---|---|", *rows])]

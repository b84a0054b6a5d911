"""Find the format of a source among the registered ones, and describe the source with it."""

import functools
from dataclasses import replace

from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.interop.base.files import ADAPTER_FILES, change_of, named_files, unexplained
from zoo.interop.base.format import KEYS_SAY, Description, Format, NotDescribedError, log
from zoo.interop.base.library_files import read_library_config, refuse_quantised
from zoo.interop.base.source import TRANSFORMERS, ZOO, Source
from zoo.registry import find_part, part_names
from zoo.storage.hub import CONFIG
from zoo.storage.outside import understanding

OWN = "zoo_checkpoint"  # the format of what ``zoo.save`` wrote


def formats() -> dict[str, Format]:
    """Return all registered formats by name, those of plug-ins included."""
    return {name: _format(find_part("format", name)) for name in part_names("format")}


@functools.cache
def _format(part: type[Format]) -> Format:
    return part()


def find_format(source: Source) -> Format:
    """Return the format that recognises a source best.

    Raises:
        WeightsError: two formats recognise it equally well.
    """
    if source.format is None:
        # What zoo saved says so itself: no plug-in is imported to read it.
        known = [_format(find_part("format", OWN))] if source.library == ZOO else formats().values()
        scores = {each: each.recognises(source) for each in known}
        if source.file is not None and max(scores.values()) < KEYS_SAY:
            scores = _unwrapped(source, scores)
        best = max(scores, key=lambda each: scores[each])
        equal = [each.name for each, score in scores.items() if score == scores[best]]
        if len(equal) > 1 and scores[best] >= KEYS_SAY:
            raise WeightsError(
                f"{source.origin}: could be of the formats {' and '.join(equal)}; name the model: create_model(NAME, weights=...)"
            )
        source.format = best
    return source.format


def _unwrapped(source: Source, scores: dict[Format, float]) -> dict[Format, float]:
    """Return the scores of a file whose names lie below wrappers (``model.``, ``encoder.``, ...), if a format recognises it without them.

    The source then gives the names without the wrappers; otherwise it stays as it is.
    """
    inner = Source(source.origin, file=source.file, key=source.key)
    while inner.unwrap():
        found = {each: each.recognises(inner) for each in scores}
        if max(found.values()) >= KEYS_SAY:
            source.tensors, source.shapes = inner.tensors, inner.shapes
            return found
    return scores


def describe(source: Source) -> Description:
    """Return what a source says about its model, and what of it is left out.

    Raises:
        NotDescribedError: the source does not say which model it belongs to.
        ConfigError: the model has something that our parts do not have.
        WeightsError: a file cannot be read, or a file would change what the weights compute and cannot be used.
    """
    if source.description is None:
        with understanding(source.origin):
            refuse_changes(source)
            found, table = find_format(source).describe(source), find_format(source).files
        if source.directory is not None and source.library != ZOO:
            left = [f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}: unknown files"] if (names := unknown_files(source)) else []
            found = replace(found, left_out=(*found.left_out, *named_files(source.directory, table), *left))
        source.description = found
    return source.description


def unknown_files(source: Source) -> list[str]:
    """Return the files of a foreign directory that are neither used, known to be harmless, nor named."""
    if source.directory is None or source.library == ZOO:
        return []
    used, table = {path.name for path in source.weight_files}, find_format(source).files
    if source.adapter is None:
        return [name for name in unexplained(source.directory, table) if name not in used]
    table = {**table, **ADAPTER_FILES}
    directories = {source.directory, source.adapter}  # of one that lies beside the weights of its base, both are the same
    return sorted({name for each in directories for name in unexplained(each, table) if name not in used})


def refuse_changes(source: Source) -> None:
    """Raise an error if a foreign directory holds a file that would change what its weights compute, or quantised weights.

    Raises:
        WeightsError: there is such a file, or the config is damaged.
        ConfigError: the weights are quantised.
    """
    if source.directory is not None and source.library == TRANSFORMERS:
        try:
            config = source.config
        except ConfigError as error:
            raise WeightsError(str(error)) from error
        refuse_quantised(config, source.directory / CONFIG)
    for name in unknown_files(source):
        if why := change_of(name):
            raise WeightsError(
                f"{source.directory}: holds {name} beside the weights, and {why}; it is not applied here: merge it with the library that "
                "wrote it (PEFT: model.merge_and_unload()), or move it to another directory"
            )


def tell_left_out(source: Source, description: Description) -> None:
    """Log one line for each part or file that is not used."""
    for words in description.left_out:
        log.warning("%s: not used: %s", source.origin, words)


def not_described(source: Source) -> NotDescribedError:
    """Return the error for weights alone, which do not say which model they belong to."""
    way = f"name the model: zoo.create_model(NAME, weights={source.origin!r})"
    if source.file is None:
        return NotDescribedError(f"{source.origin}: holds weights alone; {way}")
    if (source.file.parent / CONFIG).is_file():
        way = f"give the directory {source.file.parent}"
    return NotDescribedError(
        f"{source.file}: weights that do not say which model they are of (only whole CLIPs of OpenAI and open_clip do); {way}"
    )


def library_config(source: Source, wanted: Format) -> dict:
    """Return the ``config.json`` of a source whose model type a format describes.

    Raises:
        NotDescribedError: the source is a file alone.
        WeightsError: the config cannot be read.
        ConfigError: the model type is unknown.
    """
    if source.directory is None or source.library != TRANSFORMERS:
        raise not_described(source)
    path = source.directory / CONFIG
    config = read_library_config(path)
    if config.get("model_type") in wanted.model_types:
        return config
    if "architecture" in config:
        raise ConfigError(
            f"{path}: a model of timm; use zoo.create_model('timm/{config['architecture']}', weights={str(source.directory)!r})"
        )
    known = [kind for each in formats().values() for kind in each.model_types]
    raise ConfigError(
        f"{path}: model_type {config.get('model_type')!r} cannot be converted to parts of ours; "
        f"{name_choices(str(config.get('model_type')), known)}. As they are, any vision model can be used as the encoder, and any causal "
        f"language model as the language model transformers/{source.directory}"
    )

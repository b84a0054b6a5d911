"""``zoo classify``: predict labels of images; an unreadable image is reported and the others are classified."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from zoo.assembly.bundled import caption_of, chosen_photo_model
from zoo.assembly.finite import refuse_not_finite
from zoo.assembly.system import System
from zoo.commands.classify_report import Prediction, check_output, write_predictions
from zoo.commands.display import counting_progress, print_json, readable_share, table
from zoo.commands.model_options import load_chosen
from zoo.commands.plain import say
from zoo.data.zero_shot_prompts import DEFAULT_TEMPLATES, Label, fill_templates, plain_labels, read_labels, read_templates
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.classifier_weights import classifier_vectors
from zoo.heads.clip import refuse_equal
from zoo.processors.media.image_file import find_images

Scorer = Callable[[torch.Tensor], torch.Tensor]  # pixels [B, 3, H, W] -> probabilities [B, labels]


def classify_command(options: Namespace) -> int:
    """Run the command and return the exit status: 0, or 1 if an image could not be read."""
    if options.top_k < 1 or options.batch_size < 1:
        raise ConfigError(f"--top-k {options.top_k}, --batch-size {options.batch_size}: allowed is 1 or more")
    given = labels_given(options)
    templates = read_templates(options.templates, "--templates") if options.templates else DEFAULT_TEMPLATES
    if options.output:
        check_output(Path(options.output))
    paths = find_images(options.paths)
    model = chosen_photo_model(options.model)
    system = load_chosen(model, options)
    if not isinstance(system, System):
        raise ConfigError(f"--model: {model} is only an encoder; classify needs a system with a contrastive head or a classifier head")
    if not options.allow_nan:
        refuse_not_finite(system, model)
    labels, score = find_scorer(system, given, templates, model, cached=not options.no_cache)
    with (
        counting_progress("classify", len(paths), as_json=options.json)
        if len(paths) > options.batch_size
        else nullcontext(_ignore) as advance
    ):
        predictions = list(predict(system, paths, labels, score, options.top_k, options.batch_size, advance))
    if options.output:
        write_predictions(predictions, Path(options.output), model=model, all_labels=labels)
    _show(predictions, options, model)
    failed = [found for found in predictions if found.error is not None]
    if failed:
        say(f"zoo: {len(failed)} of {len(predictions)} images could not be read; the others were classified", file=sys.stderr)
    return 1 if failed else 0


def _ignore(items: int) -> None:
    pass


def find_scorer(
    system: System, labels: Sequence[Label] | None, templates: Sequence[str], model: str, *, cached: bool = False
) -> tuple[list[str], Scorer]:
    """Return the label names, and a function from a batch of pixels to their probabilities.

    Args:
        system: a system with a contrastive head or a classifier head.
        labels: labels for zero-shot classification; None for a trained classifier.
        templates: prompt templates with ``{}`` in place of the label.
        model: name of the model, for messages.
        cached: read and write the on-disk cache of label embeddings.

    Raises:
        ConfigError: labels were given for a trained classifier, labels are missing for a zero-shot model, or the head supports neither.
    """
    verbs = system.head.verbs
    if "class_vectors" in verbs:
        if labels is None:
            raise ConfigError(f"--labels: {model} is a zero-shot model; give --labels a,b,c or --labels-file FILE")
        vectors = classifier_vectors(system, fill_templates(labels, templates), cached=cached)
        refuse_equal([label.label for label in labels], vectors)
        return [label.label for label in labels], lambda pixels: system.score("image", pixels, vectors)
    names = system.head.class_names
    if "classify" not in verbs or "image" not in system.encoders:
        raise ConfigError(f"--model: {model} cannot classify images; it can: {', '.join(verbs) or 'nothing'}")
    if labels is not None:
        raise ConfigError(f"--labels: {model} is a classifier with fixed classes; omit --labels and --labels-file")
    numbers = [str(i) for i in range(system.head.num_classes)]
    return list(names or numbers), system.classify


def labels_given(options: Namespace) -> list[Label] | None:
    """Return the labels of the command line or of a file; None if neither is given.

    Raises:
        DataError: a label is empty or given more than once, or the file cannot be read.
    """
    if options.labels_file:
        return read_labels(options.labels_file, "--labels-file")
    if options.labels is None:
        return None
    return plain_labels([label.strip() for label in options.labels.split(",")], "--labels")


def predict(
    system: System,
    paths: Sequence[Path],
    labels: Sequence[str],
    score: Scorer,
    top_k: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> Iterator[Prediction]:
    """Yield a prediction per image, in the order of the paths; images are classified in batches.

    Args:
        score: maps pixels [B, 3, H, W] to probabilities [B, labels].
        advance: progress callback, called with the number of images that were completed.
    """
    assert system.processor is not None
    part = system.processor["image"]
    for start in range(0, len(paths), batch_size):
        items: dict[Path, torch.Tensor] = {}
        errors: dict[Path, str] = {}
        for path in paths[start : start + batch_size]:
            try:
                items[path] = part.item(path)
            except DataError as error:
                errors[path] = str(error)
        scores = {}
        if items:
            found = score(part.collate(list(items.values()))[0])
            scores = dict(zip(items, found, strict=True))
        for path in paths[start : start + batch_size]:
            yield _prediction(path, labels, scores.get(path), errors.get(path), top_k)
        advance(len(paths[start : start + batch_size]))


def _prediction(path: Path, labels: Sequence[str], scores: torch.Tensor | None, error: str | None, top_k: int) -> Prediction:
    if scores is None:
        return Prediction(str(path), [], [], error)
    best = scores.topk(min(top_k, len(labels)))
    return Prediction(str(path), [str(labels[int(i)]) for i in best.indices], best.values.tolist())


def _show(predictions: Sequence[Prediction], options: Namespace, model: str) -> None:
    for found in predictions:
        if found.error is not None:
            say(f"zoo: {found.error}", file=sys.stderr)
    if options.json:
        for found in predictions:
            print_json(vars(found))
    elif options.output:
        say(f"written: {options.output} ({len(predictions)} images)")
    else:
        rows = [[found.path, *_cells(found)] for found in predictions if found.error is None]
        if rows:
            table(f"by {caption_of(model)}", ["image", "best", "others"], rows)


def _cells(found: Prediction) -> list[str]:
    words = [f"{label} {readable_share(p)}" for label, p in zip(found.labels, found.probabilities, strict=True)]
    return [words[0], ", ".join(words[1:])]

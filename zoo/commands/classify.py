"""``zoo classify``: predict labels of images or recordings; an unreadable one is reported and the others are classified."""

import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from zoo.assembly.bundled import caption_of, chosen_photo_model
from zoo.assembly.finite import refuse_not_finite
from zoo.assembly.system import System
from zoo.commands.classify_report import Prediction, check_output, write_predictions
from zoo.commands.display import counting_progress, print_json, readable_share, table
from zoo.commands.model_options import load_chosen
from zoo.commands.plain import say
from zoo.commands.read_ahead import read_ahead
from zoo.commands.worker_options import shares_work
from zoo.commands.workers import Advance, ListJob, has_parts, parts_folder, run_shared
from zoo.data.zero_shot_prompts import DEFAULT_TEMPLATES, Label, fill_templates, plain_labels, read_labels, read_templates
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.classifier_weights import classifier_vectors
from zoo.heads.clip import refuse_equal
from zoo.processors.media.image_file import find_images, walk_images
from zoo.processors.media.sound_kinds import AUDIO_SUFFIXES
from zoo.runs.jobs.parts import Parts
from zoo.training.fingerprint import hash_parameters

# Maps pixels [B, 3, H, W], a Batch of patches, or mels [B, num_mels, frames] to probabilities [B, labels].
Scorer = Callable[[Any], torch.Tensor]
NAMES = {"image": "images", "audio": "recordings"}


def classify_command(options: Namespace) -> int:
    """Run the command and return the exit status: 0, or 1 if an image or recording could not be read."""
    if options.top_k < 1 or options.batch_size < 1:
        raise ConfigError(f"--top-k {options.top_k}, --batch-size {options.batch_size}: allowed is 1 or more")
    given = labels_given(options)
    templates = read_templates(options.templates, "--templates") if options.templates else DEFAULT_TEMPLATES
    if options.output:
        check_output(Path(options.output))
    paths, modality = find_inputs(options.paths)
    model = chosen_photo_model(options.model)
    if shares_work(options) or (options.output and has_parts(Path(options.output))):
        return run_shared(ClassifyJob(options, paths, given, templates, model, modality), options)
    system, labels, score = _open_scorer(options, given, templates, model, modality)
    with (
        counting_progress("classify", len(paths), as_json=options.json)
        if len(paths) > options.batch_size
        else nullcontext(_ignore) as advance
    ):
        predictions = list(predict(system, paths, labels, score, options.top_k, options.batch_size, advance, modality))
    if options.output:
        write_predictions(predictions, Path(options.output), model=model, all_labels=labels)
    return _show(predictions, options, model, modality)


def find_inputs(given: Sequence[str]) -> tuple[list[Path], str]:
    """Return the files to classify and their modality: recordings if no path is an image or holds one.

    Raises:
        DataError: no path is given, a path does not exist, or a folder has neither images nor recordings.
    """
    places = list(map(Path, given))
    if not given or any(next(walk_images(place), None) is not None for place in places if place.is_dir()):
        return find_images(given), "image"
    sounds = [list(walk_images(place, suffixes=AUDIO_SUFFIXES)) if place.is_dir() else [place] for place in places]
    found = [path for inside in sounds for path in inside]
    if all(sounds) and all(path.name.lower().endswith(AUDIO_SUFFIXES) for path in found):
        missing = next((path for path in found if not path.exists()), None)
        if missing is not None:
            raise DataError(f"{missing}: no such file or folder; check the path (the current folder is {Path.cwd()})")
        return found, "audio"
    return find_images(given), "image"


class ClassifyJob(ListJob):
    """Classification shared among workers; it needs ``--output``.

    Raises:
        ConfigError: ``--output`` is missing, or finished parts belong to another job.
    """

    def __init__(
        self,
        options: Namespace,
        paths: Sequence[Path],
        given: Sequence[Label] | None,
        templates: Sequence[str],
        model: str,
        modality: str = "image",
    ) -> None:
        if not options.output:
            raise ConfigError("--output: missing; several workers need a file to write, for example --output labels.csv")
        self.modality = modality
        self.paths, self.given, self.templates, self.model, self.output = paths, given, templates, model, Path(options.output)
        labels = None if given is None else [str(label) for label in given]
        job = {"model": model, "labels": labels, "templates": list(templates), "top_k": options.top_k}
        job |= {"batch_size": options.batch_size, "precision": options.precision}
        super().__init__("classify", parts_folder(self.output), job, list(map(str, paths)), options, multiple=options.batch_size)

    def open(self) -> Callable[[range, Advance], Iterator[dict[str, Any]]]:
        """Load the model; return a function that classifies images or recordings."""
        system, labels, score = _open_scorer(self.options, self.given, self.templates, self.model, self.modality)
        self.parts.agree("weights", hash_parameters(system))
        self.parts.agree("labels", labels)

        def run(span: range, advance: Advance) -> Iterator[dict[str, Any]]:
            paths = self.paths[span.start : span.stop]
            top_k, batch_size = self.options.top_k, self.options.batch_size
            return map(vars, predict(system, paths, labels, score, top_k, batch_size, advance, self.modality))

        return run

    def join(self) -> int:
        """Write the output from all parts."""
        found = JoinedPredictions(self.parts)
        write_predictions(found, self.output, model=self.model, all_labels=self.parts.agreed("labels"))
        status = _show(found, self.options, self.model, self.modality)
        self.parts.remove()
        return status


class JoinedPredictions(Collection[Prediction]):
    """Predictions of all parts in order, read from disk each time they are iterated over."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return self.parts.num_items

    def __iter__(self) -> Iterator[Prediction]:
        return (Prediction(**line) for line in self.parts.lines())

    def __contains__(self, found: object) -> bool:
        return any(each == found for each in self)


def _open_scorer(
    options: Namespace, given: Sequence[Label] | None, templates: Sequence[str], model: str, modality: str = "image"
) -> tuple[System, list[str], Scorer]:
    """Load the model; return it with the label names and the function of ``find_scorer``."""
    system = load_chosen(model, options)
    if not isinstance(system, System):
        raise ConfigError(f"--model: {model} is only an encoder; classify needs a system with a contrastive head or a classifier head")
    if not options.allow_nan:
        refuse_not_finite(system, model)
    return system, *find_scorer(system, given, templates, model, cached=not options.no_cache, modality=modality)


def _ignore(items: int) -> None:
    pass


def find_scorer(
    system: System, labels: Sequence[Label] | None, templates: Sequence[str], model: str, *, cached: bool = False, modality: str = "image"
) -> tuple[list[str], Scorer]:
    """Return the label names, and a function from a batch of pixels or mels to their probabilities.

    Args:
        system: a system with a contrastive head or a classifier head.
        labels: labels for zero-shot classification; None for a trained classifier.
        templates: prompt templates with ``{}`` in place of the label.
        model: name of the model, for messages.
        cached: read and write the on-disk cache of label embeddings.
        modality: "image" or "audio".

    Raises:
        ConfigError: labels were given for a trained classifier, labels are missing for a zero-shot model, or the head supports neither.
    """
    verbs = system.head.verbs
    if modality not in system.encoders and "classify" in verbs:
        raise ConfigError(
            f"--model: {model} has no {modality!r} encoder; it has {', '.join(system.encoders)}: give a model of {NAMES[modality]}"
        )
    if "class_vectors" in verbs:
        if labels is None:
            raise ConfigError(f"--labels: {model} is a zero-shot model; give --labels a,b,c or --labels-file FILE")
        vectors = classifier_vectors(system, fill_templates(labels, templates), cached=cached)
        refuse_equal([label.label for label in labels], vectors)
        return [label.label for label in labels], lambda x: system.score(modality, x, vectors)
    names = system.head.class_names
    if "classify" not in verbs or modality not in system.encoders:
        raise ConfigError(f"--model: {model} cannot classify {NAMES[modality]}; it can: {', '.join(verbs) or 'nothing'}")
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
    advance: Advance,
    modality: str = "image",
) -> Iterator[Prediction]:
    """Yield a prediction per image or recording, in the order of the paths; the next batch is read while one is classified.

    Args:
        score: maps pixels [B, 3, H, W], a batch of lists of patches, or mels [B, num_mels, frames] to probabilities [B, labels].
        advance: progress callback, called with the number of files that were completed.
    """
    assert system.processor is not None
    part = system.processor[modality]
    for first, readings in read_ahead(paths, part.item, batch_size):
        batch = paths[first : first + batch_size]
        items: dict[Path, torch.Tensor] = {}
        errors: dict[Path, str] = {}
        for path, reading in zip(batch, readings, strict=True):
            try:
                items[path] = reading.result()
            except DataError as error:
                errors[path] = str(error)
        scores = {}
        if items:
            found = score(part.ready(list(items.values())))
            scores = dict(zip(items, found, strict=True))
        for path in batch:
            yield _prediction(path, labels, scores.get(path), errors.get(path), top_k)
        advance(len(batch))


def _prediction(path: Path, labels: Sequence[str], scores: torch.Tensor | None, error: str | None, top_k: int) -> Prediction:
    if scores is None:
        return Prediction(str(path), [], [], error)
    best = scores.topk(min(top_k, len(labels)))
    return Prediction(str(path), [str(labels[int(i)]) for i in best.indices], best.values.tolist())


def _show(predictions: Collection[Prediction], options: Namespace, model: str, modality: str) -> int:
    """Print the predictions and what could not be read; return the exit status."""
    for found in predictions:
        if found.error is not None:
            say(f"zoo: {found.error}", file=sys.stderr)
    if options.json:
        for found in predictions:
            print_json(vars(found))
    elif options.output:
        noun = NAMES[modality][:-1] if len(predictions) == 1 else NAMES[modality]
        say(f"written: {options.output} ({len(predictions)} {noun})")
    else:
        rows = [[found.path, *_cells(found)] for found in predictions if found.error is None]
        if rows:
            table(f"by {caption_of(model)}", [NAMES[modality][:-1], "best", "others"], rows)
    failed = sum(found.error is not None for found in predictions)
    if failed:
        say(f"zoo: {failed} of {len(predictions)} {NAMES[modality]} could not be read; the others were classified", file=sys.stderr)
    return 1 if failed else 0


def _cells(found: Prediction) -> list[str]:
    words = [f"{label} {readable_share(p)}" for label, p in zip(found.labels, found.probabilities, strict=True)]
    return [words[0], ", ".join(words[1:])]

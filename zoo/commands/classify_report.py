"""Reports of ``zoo classify``: CSV, JSON, or an HTML page with the images."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from zoo.evaluation.results.html_report import MOST_FILTERS, bar, card, check_output, write_page
from zoo.processors.media.cells import write_rows
from zoo.storage.files import write_whole

LABELS_SHOWN = 200  # on an HTML page; the classification uses all labels


@dataclass(frozen=True)
class Prediction:
    """Predicted labels of one image, the most likely first, or the error if the image could not be read."""

    path: str
    labels: list[str]
    probabilities: list[float]
    error: str | None = None


def write_predictions(predictions: Collection[Prediction], output: Path, *, model: str, all_labels: Sequence[str]) -> None:
    """Write the predictions as CSV, JSON or HTML, chosen by the file suffix; the file is written atomically.

    Raises:
        DataError: the suffix is not supported, or the file cannot be written.
    """
    output = Path(output)
    check_output(output)
    write = WRITERS[output.suffix.lower()]
    write_whole(output, lambda file: write(file, predictions, model, all_labels))


def _write_csv(file: TextIO, predictions: Collection[Prediction], model: str, all_labels: Sequence[str]) -> None:
    """Write one row per image: path, label_1, probability_1, ..., error."""
    ranks = max((len(prediction.labels) for prediction in predictions), default=0)
    rows = [["path", *(f"{what}_{rank + 1}" for rank in range(ranks) for what in ("label", "probability")), "error"]]
    for found in predictions:
        pairs = [cell for pair in zip(found.labels, found.probabilities, strict=True) for cell in (pair[0], f"{pair[1]:.6f}")]
        rows.append([found.path, *pairs, *[""] * (2 * ranks - len(pairs)), found.error or ""])
    write_rows(file, rows)


def _write_json(file: TextIO, predictions: Collection[Prediction], model: str, all_labels: Sequence[str]) -> None:
    """Write a list of objects; each names its model, so the lists of several runs can be concatenated."""
    before = "[\n"
    for found in predictions:  # one at a time, because they may be millions; the text is that of one json.dump with indent=2
        text = json.dumps({**asdict(found), "model": model}, indent=2, ensure_ascii=False)
        file.write(before + "\n".join(f"  {line}" for line in text.split("\n")))
        before = ",\n"
    file.write("[]\n" if before == "[\n" else "\n]\n")


def _write_html(file: TextIO, predictions: Collection[Prediction], model: str, all_labels: Sequence[str]) -> None:
    """Write a self-contained HTML page."""
    bad = sum(found.error is not None for found in predictions)
    counts = Counter(found.labels[0] for found in predictions if found.labels and found.error is None)
    kinds = {label: f"label_{number}" for number, (label, _) in enumerate(counts.most_common(MOST_FILTERS))}
    more = f" and {len(all_labels) - LABELS_SHOWN} more" if len(all_labels) > LABELS_SHOWN else ""
    readable = [found.probabilities[0] for found in predictions if found.probabilities and found.error is None]
    mean = f"{100 * sum(readable) / len(readable):.1f} %" if readable else "-"
    filters = [(f"{label} ({counts[label]})", kind) for label, kind in kinds.items()]
    write_page(
        file,
        model,
        [f"Labels: {', '.join(all_labels[:LABELS_SHOWN])}{more}"],
        (card(p.path, _bars(p), error=p.error, kind=kinds.get(p.labels[0], "") if p.labels else "") for p in predictions),
        summary=[("images", str(len(predictions))), ("not readable", str(bad)), ("mean probability of the best label", mean)],
        filters=[*([("not readable", "bad")] if bad else []), *filters],
    )


def _bars(found: Prediction) -> str:
    pairs = zip(found.labels, found.probabilities, strict=True)
    return "".join(bar(label, f"{100 * probability:.1f} %", probability) for label, probability in pairs)


WRITERS: dict[str, Callable[[TextIO, Collection[Prediction], str, Sequence[str]], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".html": _write_html,
}

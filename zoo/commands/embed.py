"""``zoo embed``: embed the images or recordings of a folder, or the lines of a text file, into an index (``zoo.commands.index``).

The job can be killed at any time; the same command resumes it.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from zoo.assembly.bundled import chosen_model
from zoo.assembly.finite import refuse_not_finite
from zoo.assembly.save_load import load
from zoo.commands.display import counting_progress, print_json
from zoo.commands.index.embedding import EmbedResult, embed_folder, list_items
from zoo.commands.index.shared import EmbedJob, complete_job
from zoo.commands.index.store import FAILED, checked_words
from zoo.commands.index.writer import refuse_strange
from zoo.commands.model_options import placement
from zoo.commands.plain import say
from zoo.commands.worker_options import shares_work
from zoo.commands.workers import run_shared

FAILURES_SHOWN = 20


def embed_command(options: Namespace) -> int:
    """Run the command and return the exit status: 0, 1 if items failed, or 130 if the user interrupted it."""
    checked_words(options.format, options.dtype)
    place = placement(options)
    options.model = chosen_model(options.model)
    if shares_work(options):
        if options.workers is not None and options.launcher is None:
            say("zoo: --workers counts processes; --readers sets the threads that read files in each of them", file=sys.stderr)
        return run_shared(_shared(EmbedJob, options, place), options)
    if (job := _shared(complete_job, options, place)) is not None:
        return run_shared(job, options)
    items = list_items(Path(options.folder), options.modality)
    if not options.restart:
        refuse_strange(Path(options.output))
    name = options.model
    model = load(name, **place)
    if not options.allow_nan:
        refuse_not_finite(model, name)
    try:
        with counting_progress("embed", len(items), as_json=options.json) as advance:
            result = embed_folder(
                model,
                options.folder,
                options.output,
                name=name,
                modality=options.modality,
                storage=options.format,
                dtype=options.dtype,
                batch_size=options.batch_size,
                readers=options.readers,
                update=options.update,
                restart=options.restart,
                advance=advance,
            )
    except KeyboardInterrupt:
        say(f"zoo: stopped; finished items are kept in {options.output}, and the same command resumes the job", file=sys.stderr)
        return 130
    return _show(result, as_json=options.json)


def _shared(make: Callable[..., Any], options: Namespace, place: Mapping[str, Any]) -> Any:
    """Make the job of several workers: of a class, or of a function that may give None."""
    name = options.model
    return make(options, name, lambda: load(name, **place), partial(_show, as_json=options.json))


def _show(result: EmbedResult, *, as_json: bool) -> int:
    """Print the result and what could not be read; return the exit status."""
    names = [item.get("path") or item.get("text") or "" for item in result.failed]
    if as_json:
        for item in result.failed:
            print_json(item)
        print_json({"index": str(result.index), "count": result.count, "failed": len(result.failed), "embedded": result.embedded})
        return 1 if result.failed else 0
    for item, name in list(zip(result.failed, names, strict=True))[:FAILURES_SHOWN]:
        say(f"zoo: {item['error'] if name in item['error'] else ': '.join([name, item['error']])}", file=sys.stderr)
    if result.failed:
        share = f"{len(names)} of {len(names) + result.count}"
        say(f"zoo: {share} items could not be read (all in {result.index / FAILED}); the others were embedded", file=sys.stderr)
    say(f"index: {result.index} ({result.count} vectors; {result.embedded} items were new)")
    return 1 if result.failed else 0

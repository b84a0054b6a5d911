"""Models of the tabs: named at the start, loaded when a tab first needs them, used by one event at a time."""

import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.assembly.bundled import DEFAULT_MODEL as DEFAULT_CLASSIFIER
from zoo.assembly.bundled import DEFAULT_VOICE, PHOTO_MODEL, caption_of, in_hub_cache
from zoo.commands.draw_graph import DEFAULT_MODEL as DEFAULT_GRAPH
from zoo.commands.model_options import load_chosen, placement
from zoo.commands.search import Searcher
from zoo.commands.serve.command import named_models
from zoo.commands.transcribe import cached_default
from zoo.errors import ConfigError, DataError, name_choices
from zoo.interop.base.source import read_source
from zoo.registry.pretrained import find_pretrained, is_tagged

NAMES = ("classify", "search", "chat", "transcribe", "speak", "graph")


class LazyModel:
    """Model that is loaded at its first use, with a lock: one event uses it at a time.

    Args:
        name: its name on the page.
        load: returns the loaded model.
        timeout: longest time in seconds that an event waits for the model.
    """

    def __init__(self, name: str, load: Callable[[], Any], timeout: float) -> None:
        self.name, self._load, self._timeout = name, load, timeout
        self._lock, self._model = threading.Lock(), None

    @contextmanager
    def held(self) -> Iterator[Any]:
        """Yield the model; no other event uses it meanwhile.

        Raises:
            DataError: the model is in use for longer than the time limit.
            ZooError: the model cannot be loaded; the next event tries again.
        """
        if not self._lock.acquire(timeout=self._timeout):
            raise DataError(f"{self.name} has been busy for {self._timeout:g} s; try again later")
        try:
            if self._model is None:
                self._model = self._load()
            yield self._model
        finally:
            self._lock.release()


class Models:
    """Models of the tabs by name; tabs with the same source share one.

    Args:
        options: of ``zoo demo``: ``model``, ``index``, ``device``, ``precision``, ``timeout``.

    Attributes:
        given: sources of the tabs that the command line names.
        by_tab: the models; a tab without one is missing.

    Raises:
        ConfigError: ``--model`` names no tab or no source, or the device cannot be used.
        WeightsError: there is no such model.
        DataError: there is no index in the directory of ``--index``.
    """

    def __init__(self, options: Namespace) -> None:
        self.given = _given(options.model)
        for source in self.given.values():
            check_source(source)
        placement(options)  # a wrong device is reported now
        shared: dict[str, LazyModel] = {}
        self.by_tab: dict[str, LazyModel] = {}
        for tab, source in {**_defaults(), **self.given}.items():
            if source is not None and tab != "search":
                new = LazyModel(shown_name(source), lambda source=source: load_chosen(source, options), options.timeout)
                self.by_tab[tab] = shared.setdefault(source, new)
        if options.index is not None:
            self.by_tab["search"] = _searcher(options, self.given.get("search"))
        elif "search" in self.given:
            raise ConfigError("--model: search=... has no effect without --index DIR; give the index that zoo embed wrote")


def _given(words: list[str]) -> Mapping[str, str]:
    found = named_models(words)
    for tab in found:
        if tab not in NAMES:
            raise ConfigError(f"--model: there is no tab {tab!r}; {name_choices(tab, NAMES)}; write TAB=MODEL, for example chat=runs/llava")
    return found


def _defaults() -> dict[str, str | None]:
    return {
        "classify": PHOTO_MODEL if in_hub_cache(PHOTO_MODEL) else DEFAULT_CLASSIFIER,
        "transcribe": cached_default(),
        "speak": DEFAULT_VOICE,
        "graph": DEFAULT_GRAPH,
    }


def check_source(source: str) -> None:
    """Raise WeightsError or ConfigError if there is no such model; sources on other machines are checked when they are loaded."""
    if is_tagged(source):
        find_pretrained(source)
    elif "://" not in source:
        read_source(source)


def shown_name(source: str) -> str:
    """Return the name of a model on the page; of a path only its end, because the page may be seen by others."""
    return Path(source).name if Path(source).exists() else source


def title_of(model: LazyModel) -> str:
    """Return the line about a model on the page."""
    return f"Model: {caption_of(model.name)}"


def _searcher(options: Namespace, model: str | None) -> LazyModel:
    from zoo.commands.index.store import Index

    name = Path(Index(options.index).directory).name  # raises DataError if there is none
    return LazyModel(name, lambda: Searcher(options.index, model=model, **placement(options)), options.timeout)

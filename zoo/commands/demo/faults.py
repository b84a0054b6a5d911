"""Errors of events as messages on the page; a traceback never gets there."""

import html
import logging
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from zoo.commands.faults import explain
from zoo.commands.plain import json_line

log = logging.getLogger("zoo.demo")


def on_page(event: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of an event with its errors turned into messages on the page."""

    @wraps(event)
    def guarded(*inputs: Any) -> Any:
        try:
            return event(*inputs)
        except Exception as error:  # the page shows a sentence for every fault, and the log the place
            raise message_of(error) from None

    return guarded


def on_page_in_pieces(event: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Return the generator function of an event with its errors turned into messages on the page."""

    @wraps(event)
    def guarded(*inputs: Any) -> Iterator[Any]:
        try:
            yield from event(*inputs)
        except Exception as error:
            raise message_of(error) from None

    return guarded


def message_of(error: Exception) -> Exception:
    """Return Gradio's error with the text for the page, which stays until the user closes it."""
    import gradio

    return gradio.Error(html.escape(text_of(error), quote=False), duration=None, print_exception=False)


def text_of(error: Exception) -> str:
    """Return the text of an error for the page; the log names the place of a fault of zoo."""
    text = explain(error)
    if text is None:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        log.error(json_line({"event": "fault", "error": type(error).__name__, "at": place}))
        text = "zoo failed to compute this; the log of zoo demo names the place"
    return text

"""The page: its tabs, and the application that serves it to browsers without any other address."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.commands.demo.chat import add_chat
from zoo.commands.demo.classify import add_classify
from zoo.commands.demo.graph import add_graph
from zoo.commands.demo.models import LazyModel, Models
from zoo.commands.demo.search import add_search
from zoo.commands.demo.speak import add_speak
from zoo.commands.demo.tab import Tab
from zoo.commands.demo.transcribe import add_transcribe
from zoo.commands.serve.limits import Limits

FONTS = ["system-ui", "sans-serif"]  # those of the machine: a named font of Gradio would be loaded from the network
KEPT_SESSIONS = 32  # pages whose state (conversations, live transcripts) is kept; the oldest is dropped
UPLOADS_LIVE_S = 3600  # uploads and results are deleted after this time
FORM_BYTES = 2**16  # of a form around an uploaded file
CSS = """
.gradio-container {max-width: 1000px !important; width: 100%; margin: 0 auto !important}
footer {display: none !important}
.drawing img {image-rendering: pixelated; cursor: crosshair}
"""


@dataclass(frozen=True)
class Row:
    """Tab of the page.

    Attributes:
        title: on the tab.
        add: adds the components of a tab that has a model.
        missing: text of a tab without a model, with the command that gives it one.
    """

    title: str
    add: Callable[[Tab], None]
    missing: str = ""


TABS = {
    "classify": Row("Classify", add_classify),
    "search": Row(
        "Search",
        add_search,
        "There is no index. Make one and start again:\n\n```\nzoo embed PICTURES -o INDEX\nzoo demo --index INDEX\n```",
    ),
    "chat": Row(
        "Chat",
        add_chat,
        "There is no bundled language model. Start again with one, for example:\n\n```\nzoo demo --model chat=runs/llava\n```",
    ),
    "transcribe": Row(
        "Transcribe",
        add_transcribe,
        "There is no bundled Whisper. Get one (71 MB, English) and start again:\n\n```\nzoo fetch whisper_tiny_en\nzoo demo\n```",
    ),
    "speak": Row("Speak", add_speak),
    "graph": Row("Graph", add_graph),
}


def create_app(models: Models, limits: Limits, folder: Path) -> Any:
    """Build the FastAPI application with the page at its root.

    Args:
        models: of the tabs.
        limits: of uploads, texts and answers.
        folder: for uploads and results; the only one whose files are served.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Gradio's own imports
        import gradio
        from fastapi import FastAPI
        from gradio import themes

        _refuse_addresses()
        page = _page(gradio, models, limits, folder)
        page.queue(max_size=limits.max_requests, default_concurrency_limit=4)
        page.state_session_capacity = KEPT_SESSIONS
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.add_middleware(BodyLimit, most=limits.max_body_bytes + FORM_BYTES)
        return gradio.mount_gradio_app(
            app,
            page,
            path="/",
            allowed_paths=[],
            max_file_size=limits.max_body_bytes,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            theme=themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
            css=CSS,
        )


def _page(gradio: Any, models: Models, limits: Limits, folder: Path) -> Any:
    with gradio.Blocks(title="zoo demo", analytics_enabled=False, delete_cache=(UPLOADS_LIVE_S, UPLOADS_LIVE_S)) as page:
        gradio.Markdown("# zoo demo")
        for name, row in TABS.items():
            with gradio.Tab(row.title, id=name) as area:
                model: LazyModel | None = models.by_tab.get(name)
                if model is None:
                    gradio.Markdown(row.missing)
                else:
                    row.add(Tab(gradio, area, model, limits, folder, is_given=name in models.given))
    return page


def _refuse_addresses() -> None:
    """Replace Gradio's only function that fetches an address which a request names in place of an upload."""
    from gradio import Error, processing_utils

    async def refuse(url: str) -> Any:
        raise Error("addresses are not fetched; upload the file", print_exception=False)

    processing_utils.async_ssrf_protected_get = refuse


class BodyLimit:
    """Middleware that refuses bodies that are too large, or of unknown size, before they are read.

    Args:
        app: the application behind it.
        most: largest body in bytes.
    """

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on unless its body is refused."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            size = dict(scope["headers"]).get(b"content-length", b"")
            if not size.isdigit() or int(size) > self.most:
                from starlette.responses import PlainTextResponse

                refusal = PlainTextResponse(f"the body is larger than {self.most} bytes, or does not state its size", status_code=413)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)

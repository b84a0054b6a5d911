"""The FastAPI application: routes, the gate before them, and how requests become replies."""

import asyncio
import hmac
import importlib.util
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from zoo.commands.plain import json_line
from zoo.commands.serve import schemas
from zoo.commands.serve.audio import speech, transcriptions
from zoo.commands.serve.chat import completions
from zoo.commands.serve.faults import GONE, RequestError, body_of, fault_of, headers_of
from zoo.commands.serve.limits import Limits
from zoo.commands.serve.service import Events, Reply, Service
from zoo.commands.serve.vectors import classifications, embeddings
from zoo.errors import ConfigError

log = logging.getLogger("zoo.serve")
Handler = Callable[[Service, Any, dict[str, Any]], Awaitable[Reply | Events]]
ROUTES: dict[str, tuple[Handler, type]] = {  # path: handler and form of the body, which is JSON
    "/v1/embeddings": (embeddings, schemas.EmbeddingRequest),
    "/v1/classifications": (classifications, schemas.ClassificationRequest),
    "/v1/chat/completions": (completions, schemas.ChatRequest),
    "/v1/audio/speech": (speech, schemas.SpeechRequest),
}
FORMS = {"/v1/audio/transcriptions": "transcribe", "/v1/audio/translations": "translate"}  # path: task; the body is a form with a file
OPEN = ("/healthz", "/metrics")  # need no key
MODEL = "/v1/models/"
PATHS = (*ROUTES, *FORMS, *OPEN, "/v1/models")
MAX_FIELDS = 32
PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def create_app(models: Mapping[str, Any], limits: Limits, api_key: str | None = None) -> Any:
    """Build the application.

    Args:
        models: loaded models by the names that requests use.
        limits: of the server.
        api_key: key that requests must send as ``Authorization: Bearer KEY``; None needs none.

    Returns:
        The ``FastAPI`` application; its ``state.service`` is the ``Service``.

    Raises:
        ConfigError: a model can do nothing that is served, or a package of the extra ``serve`` is not installed.
    """
    require_packages()
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response

    service = Service(models, limits)

    @asynccontextmanager
    async def running(_: Any) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(title="zoo serve", lifespan=running, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service

    async def healthz(request: Request) -> Response:
        return _json({"status": "ok", "models": list(service.models)})

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def list_models(request: Request) -> Response:
        return _json({"object": "list", "data": [served.as_json() for served in service.models.values()]})

    async def show_model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in service.models:
            return _refusal(RequestError(f"model: there is no {name[:80]!r} here", 404, param="model", code="model_not_found"))
        return _json(service.models[name].as_json())

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = (
            f"{request.method} is not allowed here" if error.status_code == 405 else f"there is no such route; known: {', '.join(PATHS)}"
        )
        return _refusal(RequestError(message, error.status_code))

    add = partial(app.router.add_route, include_in_schema=False)
    for path, read in (("/healthz", healthz), ("/metrics", metrics), ("/v1/models", list_models), (MODEL + "{name:path}", show_model)):
        add(path, read, methods=["GET"])
    for path, (handler, kind) in ROUTES.items():
        add(path, _json_endpoint(service, handler, kind), methods=["POST"])
    for path, task in FORMS.items():
        add(path, _form_endpoint(service, task), methods=["POST"])
    app.add_exception_handler(HTTPException, unknown)
    app.add_middleware(Gate, service=service, api_key=api_key)
    return app


def require_packages() -> None:
    """Raise ConfigError if a package of the extra ``serve`` is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"zoo serve: {', '.join(missing)} is not installed; install it with: zoo install serve")


class Gate:
    """Middleware before all routes: key, number of open requests, log and figures.

    The log holds one JSON line per request: route, status, time, and counts. It never holds contents, addresses or keys.

    Args:
        app: the application behind it.
        service: its models.
        api_key: see ``create_app``.
    """

    def __init__(self, app: Any, service: Service, api_key: str | None) -> None:
        self.app, self.service, self.key = app, service, api_key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on unless it is refused; write its line when its answer has been sent."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, number = time.monotonic(), uuid.uuid4().hex[:16]
        facts = scope["zoo.facts"] = {}
        status = GONE

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode("ascii"))]
            await send(message)

        fault = self._refused(scope)
        counted = fault is None and scope["path"] not in OPEN
        self._count(counted)
        try:
            await (self.app if fault is None else _refusal(fault))(scope, receive, watched)
        finally:
            self._count(-counted)
            self._note(scope, status, time.monotonic() - start, number, facts)

    def _count(self, change: int) -> None:
        self.service.num_open += change
        self.service.metrics.open.set(self.service.num_open)

    def _refused(self, scope: Any) -> RequestError | None:
        """Return why a request is refused before its body is read, or None."""
        if scope["path"] in OPEN:
            return None
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        if self.key is not None and not hmac.compare_digest(given, b"Bearer " + self.key.encode("utf-8")):
            return RequestError("the API key is missing or wrong; send the header Authorization: Bearer KEY", 401, code="invalid_api_key")
        most = self.service.limits.max_requests
        if self.service.num_open >= most:
            return RequestError(f"{most} requests are open, as many as this server allows; try again", 429, code="queue_full")
        size = headers.get(b"content-length", b"")
        if size.isdigit() and int(size) > self.service.limits.max_body_bytes:
            return _too_large(self.service.limits)
        return None

    def _note(self, scope: Any, status: int, seconds: float, number: str, facts: dict[str, Any]) -> None:
        path = scope["path"]
        route = path if path in PATHS else MODEL + "{name}" if path.startswith(MODEL) else "unknown"
        status = facts.pop("fault", GONE if facts.get("gone") else status)
        self.service.metrics.request(route, status, seconds)
        if path not in OPEN:
            row = {"event": "request", "id": number, "route": route, "status": status, "seconds": round(seconds, 4), **facts}
            log.info(json_line(row))


def _json_endpoint(service: Service, handler: Handler, kind: type) -> Callable[[Any], Awaitable[Any]]:
    """Return the endpoint of a route whose body is JSON."""

    async def endpoint(request: Any) -> Any:
        async def read() -> Any:
            asked: Any = schemas.read_json(b"".join([piece async for piece in _body(request, service.limits)]), kind)
            return lambda: handler(service, asked, _facts(request, service, asked.model))

        return await _answered(request, service, read)

    return endpoint


def _form_endpoint(service: Service, task: str) -> Callable[[Any], Awaitable[Any]]:
    """Return the endpoint of a route whose body is a form with a recording."""

    async def endpoint(request: Any) -> Any:
        async def read() -> Any:
            file, asked = await _read_form(request, service.limits)
            return lambda: transcriptions(service, asked, file, _facts(request, service, asked.model), task=task)

        return await _answered(request, service, read)

    return endpoint


def _facts(request: Any, service: Service, model: str) -> dict[str, Any]:
    """Return the counts of a request for its line in the log; the name of a model that is not served is no fact."""
    facts = request.scope["zoo.facts"]
    if model in service.models:
        facts["model"] = model
    return facts


async def _body(request: Any, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request.

    Raises:
        RequestError: it is larger than the server allows; the rest is not read.
    """
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
        yield piece


def _too_large(limits: Limits) -> RequestError:
    return RequestError(f"the body is larger than {limits.max_body_mb:g} MB, which this server allows; send less", 413, code="too_large")


async def _read_form(request: Any, limits: Limits) -> tuple[bytes, schemas.TranscriptionRequest]:
    """Return the recording and the fields of a form.

    Raises:
        RequestError: the body is no form, has no file, or a field is not allowed.
    """
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RequestError("the body is no form; send multipart/form-data with the fields file and model")
    try:
        form = await MultiPartParser(request.headers, _body(request, limits), max_files=1, max_fields=MAX_FIELDS).parse()
    except (MultiPartException, KeyError) as error:
        raise RequestError(f"the form cannot be read ({error}); send multipart/form-data with the fields file and model") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("file: missing; send the recording as a file of the form", param="file")
        data = await file.read()
        fields: dict[str, Any] = {}
        for key, value in form.multi_items():
            if key.endswith("[]"):
                fields.setdefault(key[:-2], []).append(value)
            elif key != "file":
                fields[key] = value
        return data, schemas.read_form(fields, schemas.TranscriptionRequest)
    finally:
        await form.close()


async def _answered(request: Any, service: Service, read: Callable[[], Awaitable[Any]]) -> Any:
    """Read a request and compute its answer, within the time that is allowed and while the client is connected."""
    from starlette.requests import ClientDisconnect
    from starlette.responses import Response, StreamingResponse

    try:
        async with asyncio.timeout(service.limits.timeout):
            work = await read()
            found = await _while_connected(request, work())
    except ClientDisconnect:
        return Response(status_code=GONE)
    except ExceptionGroup as group:  # pieces of one request: answer with the first error
        return _refusal(fault_of(group.exceptions[0]))
    except Exception as error:
        return _refusal(fault_of(error))
    if found is None:
        return Response(status_code=GONE)
    if isinstance(found, Events):
        return StreamingResponse(found.pieces, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    return Response(found.content, media_type=found.media_type, headers=dict(found.headers))


async def _while_connected(request: Any, work: Any) -> Reply | Events | None:
    """Return the result of a coroutine, or None if the client closes the connection before; the coroutine is then cancelled."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks: Sequence[asyncio.Task] = (asyncio.ensure_future(work), asyncio.create_task(left()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _json(value: Any) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(value)


def _refusal(fault: RequestError) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(body_of(fault), status_code=fault.status, headers=headers_of(fault))

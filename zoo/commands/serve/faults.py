"""Errors of requests in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}`` with a status."""

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any

from zoo.commands.plain import json_line
from zoo.errors import ZooError

log = logging.getLogger("zoo.serve")
GONE = 499  # status in the log if the client closed the connection; nothing is sent (nginx's number)
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class RequestError(ZooError):
    """Error that is sent to the client.

    Args:
        message: what is wrong, and what to do.
        status: HTTP status.
        param: field of the request.
        code: short word for programs, for example "model_not_found".
    """

    def __init__(self, message: str, status: int = 400, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def fault_of(error: BaseException) -> RequestError:
    """Return the error that a client receives for an exception; it holds the text only of errors that the client can mend."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return RequestError("the request took longer than the server allows; send less, or try again later", 504, code="timeout")
    if isinstance(error, ZooError):
        return RequestError(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    # The text of the exception may hold contents of the request, so that only its type and place are logged.
    log.error(json_line({"event": "fault", "error": type(error).__name__, "at": place}))
    return RequestError("the server failed to compute this request; its log names the place", 500, code="internal_error")


def body_of(fault: RequestError) -> dict[str, Any]:
    """Return the JSON body of an error."""
    kind = TYPES.get(fault.status, "server_error" if fault.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(fault), "type": kind, "param": fault.param, "code": fault.code}}


def headers_of(fault: RequestError) -> dict[str, str]:
    """Return the headers of an error; ``Retry-After`` tells clients when to send the request again."""
    if fault.status in (429, 503):
        return {"Retry-After": "1"}
    return {"WWW-Authenticate": "Bearer"} if fault.status == 401 else {}

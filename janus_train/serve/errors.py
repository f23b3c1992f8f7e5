"""Errors as OpenAI's clients expect them: a status, and ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from janus_train.errors import UserError, one_line
from janus_train.infer.engine import DEFECT, BusyError, ClosedError
from janus_train.infer.limits import TimeLimitError

CLIENT_GONE = 499
"""The status for a client that is not there any more (nginx's): nobody sees it."""
_MAX_MESSAGE_CHARS = 1000
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request is refused. ``param``: the field that is wrong; ``headers``: further ones of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": one_line(self, _MAX_MESSAGE_CHARS),
            "type": _TYPES.get(self.status, default),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error of the engine, of a row or of a body."""
    match error:
        case ApiError():
            return error
        case BusyError():
            return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(error.retry_after_s)})
        case ClosedError():
            return ApiError(503, str(error), code="shutting_down")
        case TimeLimitError():  # asking the same again would take as long; the header is OpenAI's
            return ApiError(504, str(error), code="time_limit", headers={"x-should-retry": "false"})
        case UserError():
            return ApiError(400, str(error))
        case ValidationError():
            return _of_fields(error)
    return ApiError(500, DEFECT, headers={"x-should-retry": "false"})


def _of_fields(error: ValidationError) -> ApiError:
    """The first field that is wrong."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if problem["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {problem['msg']}")
    param = ".".join(map(str, problem["loc"]))
    return ApiError(400, f"{param}: {problem['msg']}" if param else problem["msg"], param=param or None)


def add_handlers(app: FastAPI) -> None:
    """Every error of the app becomes one of this form, also those of unknown addresses and of defects."""

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        message = error.detail
        if error.status_code in (404, 405):
            message = f"there is no {request.method} {request.url.path}"
        headers = dict(error.headers) if error.headers else None
        return ApiError(error.status_code, message, headers=headers).response()

    @app.exception_handler(ClientDisconnect)
    async def of_gone(request: Request, error: Exception) -> JSONResponse:
        return ApiError(CLIENT_GONE, "the client is gone").response()

    @app.exception_handler(ApiError)
    @app.exception_handler(ValidationError)
    @app.exception_handler(UserError)
    @app.exception_handler(Exception)  # the server logs it
    async def of_api(request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

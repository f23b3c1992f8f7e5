"""The HTTP server's routes, and who may use them."""

from __future__ import annotations

import hmac
import time
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from janus_train.infer.address import is_loopback
from janus_train.infer.engine import Engine
from janus_train.serve import chat, drawing
from janus_train.serve.errors import ApiError, add_handlers
from janus_train.serve.service import Service


class Gate:
    """Lets in those who have the key. Without one it keeps out the pages that a browser on this machine may have open."""

    def __init__(self, api_key: str | None):
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, request: Request) -> None:
        """Raises `ApiError`."""
        if self._key is not None:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1"), self._key):
                message = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
                raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
            return
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, "requests of other sites' pages are refused while there is no API key")
        server = request.scope.get("server") or ("", 0)
        if is_loopback(server[0]) and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise ApiError(403, f"this server is not {host[:100]}: without an API key it is localhost alone")


def create_app(engine: Engine, name: str, *, api_key: str | None, max_body_bytes: int) -> FastAPI:
    """The app over one model, called ``name``. ``api_key``: what clients must send; None: nothing."""
    app = FastAPI(
        title="janus_train",
        docs_url=None,  # their pages load scripts of others
        redoc_url=None,
        openapi_url=None,
        # nothing is sent elsewhere, whatever the environment says
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    add_handlers(app)
    service = Service(engine, name, max_body_bytes)
    guarded: dict[str, Any] = {"dependencies": [Depends(Gate(api_key))], "response_model": None}
    model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "janus_train"}

    @app.get("/health", response_model=None)
    async def health() -> Response:
        """200 while the engine works; for load balancers, so without a key."""
        status = {"status": "ok" if engine.is_alive else "failed", "waiting": engine.num_waiting}
        return JSONResponse(status, 200 if engine.is_alive else 503)

    @app.get("/v1/models", **guarded)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{model_id:path}", **guarded)
    async def one_model(model_id: str) -> dict[str, Any]:
        service.check_model(model_id)
        return model

    @app.post("/v1/chat/completions", **guarded)
    async def completions(request: Request) -> Response:
        return await chat.complete(service, request)

    @app.post("/v1/images/generations", **guarded)
    async def generations(request: Request) -> Response:
        return await drawing.generate(service, request)

    @app.post("/v1/images/edits", **guarded)
    async def edits(request: Request) -> Response:
        return await drawing.edit(service, request)

    return app

"""The offline server as an ASGI application: the documented contract on two base paths."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen_conv.offline.conversation_endpoints import ConversationEndpoints
from qwen_conv.offline.refusals import NO_KEY, NOT_JSON, WRONG_KEY, Refusal
from qwen_conv.offline.response_endpoints import ResponseEndpoints
from qwen_conv.offline.service import Endpoint, SeenRequest, Service

BASE_PATHS = ("/compatible-mode/v1", "/api/v2/apps/protocols/compatible-mode/v1")
"""The current path, and the older one that docs.qwencloud.com still shows; read 2026-11-20."""

_METHODS = ["GET", "POST", "DELETE"]


def application(service: Service, api_keys: Collection[str] | None) -> Starlette:
    """The service as an ASGI application.

    Args:
        service: What the endpoints share.
        api_keys: The keys that are let in; `None`: any.
    """
    table = {**ConversationEndpoints(service).table, **ResponseEndpoints(service).table}
    routes = [
        Route(base + path, _handler(service, api_keys, base, methods), methods=_METHODS)
        for base in BASE_PATHS
        for path, methods in table.items()
    ]
    routes.append(Route("/{rest:path}", _handler(service, api_keys, "", {}), methods=_METHODS))
    return Starlette(routes=routes)


def _handler(
    service: Service,
    api_keys: Collection[str] | None,
    base: str,
    methods: Mapping[str, Endpoint],
) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        raw = await request.body()
        body = _parsed(raw)
        service.seen.append(_seen(request, base, body, len(raw)))
        try:
            _let_in(request, api_keys)
            if isinstance(body, ValueError):
                raise NOT_JSON
            return await _endpoint(request, methods)(request, body)
        except Refusal as refusal:
            return JSONResponse(refusal.body(service.switches), refusal.status)

    return handle


def _endpoint(request: Request, methods: Mapping[str, Endpoint]) -> Endpoint:
    if not methods:
        raise Refusal("Not support", "Not Found", 404)
    if request.method not in methods:
        raise Refusal(
            f"Method '{request.method}' is not allowed for '{request.url.path}'.",
            "Method Not Allowed",
            405,
        )
    return methods[request.method]


def _parsed(raw: bytes) -> Any:
    """The JSON, or the error that says that it is none."""
    try:
        return json.loads(raw) if raw else None
    except ValueError as error:
        return error


def _seen(request: Request, base: str, body: Any, size: int) -> SeenRequest:
    return SeenRequest(
        request.method,
        request.url.path.removeprefix(base),
        dict(request.query_params),
        None if isinstance(body, ValueError) else body,
        size,
        {name: value for name, value in request.headers.items() if name != "authorization"},
    )


def _let_in(request: Request, api_keys: Collection[str] | None) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise NO_KEY
    if api_keys is not None and key not in api_keys:
        raise WRONG_KEY

"""The offline server as an ASGI application: the documented contract on two base paths."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from qwen_conv.offline.conversation_endpoints import ConversationEndpoints
from qwen_conv.offline.refusals import NO_KEY, WRONG_KEY, Refusal
from qwen_conv.offline.response_endpoints import ResponseEndpoints
from qwen_conv.offline.service import Endpoint, SeenRequest, Service
from qwen_conv.offline.shapes import parsed

BASE_PATHS = ("/compatible-mode/v1", "/api/v2/apps/protocols/compatible-mode/v1")
"""The current path, and the older one that docs.qwencloud.com still shows; read 2026-11-20."""

_log = logging.getLogger(__name__)


def application(service: Service, api_keys: Collection[str] | None) -> Starlette:
    """The service as an ASGI application.

    Args:
        service: What the endpoints share.
        api_keys: The keys that are let in; `None`: any.
    """
    table = {**ConversationEndpoints(service).table, **ResponseEndpoints(service).table}
    routes = [
        Route(base + path, _Path(service, api_keys, base, methods))
        for base in BASE_PATHS
        for path, methods in table.items()
    ]
    routes.append(Route("/{rest:path}", _Path(service, api_keys, "", {})))
    return Starlette(routes=routes)


class _Path:
    """One path with all its methods, as an ASGI application: so Starlette answers none itself."""

    def __init__(
        self,
        service: Service,
        api_keys: Collection[str] | None,
        base: str,
        methods: Mapping[str, Endpoint],
    ) -> None:
        self._service = service
        self._api_keys = api_keys
        self._base = base
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request, await request.body())
        await response(scope, receive, send)

    async def _answer(self, request: Request, raw: bytes) -> Response:
        body = _read(raw)
        self._service.seen.append(_seen(request, self._base, body, len(raw)))
        try:
            return await self._carried_out(request, body)
        except Refusal as refusal:
            return self._refused(refusal)
        except Exception as error:  # noqa: BLE001 - logged, and told to the client as any server does
            _log.exception("The offline server failed")
            # Whose script failed wants to read here why.
            return self._refused(Refusal(f"{type(error).__name__}: {error}", "InternalError", 500))

    async def _carried_out(self, request: Request, body: Any) -> Response:
        _let_in(request, self._api_keys)
        endpoint = _endpoint(request, self._methods)
        if isinstance(body, Refusal):
            raise body
        return await endpoint(request, body)

    def _refused(self, refusal: Refusal) -> Response:
        return JSONResponse(refusal.body(self._service.switches), refusal.status)


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


def _read(raw: bytes) -> Any:
    """The body's JSON, or the refusal of it: a request is noted before it is refused."""
    try:
        return parsed(raw)
    except Refusal as refusal:
        return refusal


def _seen(request: Request, base: str, body: Any, size: int) -> SeenRequest:
    return SeenRequest(
        request.method,
        request.url.path.removeprefix(base),
        dict(request.query_params),
        None if isinstance(body, Refusal) else body,
        size,
        {name: value for name, value in request.headers.items() if name != "authorization"},
    )


def _let_in(request: Request, api_keys: Collection[str] | None) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise NO_KEY
    if api_keys is not None and key not in api_keys:
        raise WRONG_KEY

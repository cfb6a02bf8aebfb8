"""The offline server's Responses API: turns, and the responses that they leave."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from qwen_conv.offline import model
from qwen_conv.offline.refusals import LOCKED, TWO_IDS, Refusal, missing
from qwen_conv.offline.responder import Fail, Json
from qwen_conv.offline.service import Endpoint, Service, deleted, paging
from qwen_conv.offline.shapes import NewResponse, checked
from qwen_conv.offline.store import StoredItem

_EVENT_STREAM = "text/event-stream;charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that the model is to answer."""

    body: Json
    conversation: str | None
    held: Sequence[Json]
    given: Sequence[Json]
    context: Sequence[Json]


class _TurnStream(StreamingResponse):
    """A turn's events; whatever becomes of the connection, the turn is brought to its end."""

    def __init__(self, events: AsyncGenerator[bytes, None], release: Callable[[], None]) -> None:
        super().__init__(events, media_type=_EVENT_STREAM)
        self._events = events
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            self._release()


class ResponseEndpoints:
    """The endpoints; a path parameter is named in braces."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store
        self._switches = service.switches
        self.table: dict[str, dict[str, Endpoint]] = {
            "/responses": {"POST": self._create},
            "/responses/{response}": {"GET": self._retrieve, "DELETE": self._delete},
            "/responses/{response}/input_items": {"GET": self._list_input_items},
        }

    async def _create(self, _: Request, body: Any) -> Response:
        streamed = isinstance(body, dict) and body.get("stream") is True
        try:
            turn = self._begun(body)
        except Refusal as refusal:
            if streamed and self._switches.stream_errors == "event":
                refused = Fail(refusal.message, refusal.code, refusal.status)
                return self._refused_stream(refused)
            raise
        try:
            response, failure = await self._answered(turn)
        except BaseException:
            self._release(turn)
            raise
        if streamed:
            events = self._streamed(turn, response, failure)
            return _TurnStream(events, lambda: self._release(turn))
        try:
            if failure is not None:
                self._fail(turn)
                raise Refusal(failure.message, failure.code, failure.status)
            self._keep(turn, response)
        finally:
            self._release(turn)
        return JSONResponse(response)

    async def _answered(self, turn: Turn) -> tuple[Json, Fail | None]:
        """The response to a turn, and what it fails with."""
        pieces = await model.answer_of(self._service.script, turn.context, turn.body)
        failure = next((piece for piece in pieces if isinstance(piece, Fail)), None)
        kept, short = model.cut(pieces, turn.body.get("max_output_tokens"))
        response = self._response(turn.body, model.output_items(kept), short=short)
        response["usage"] = model.usage(turn.context, response["output"], self._switches)
        return response, failure

    def _refused_stream(self, refused: Fail) -> Response:
        """A refusal as a stream: its one event is the first (seen 2026-09-27)."""
        *_, failed = model.events(self._response({}, []), self._switches, refused)
        return Response(_event(0, failed), media_type=_EVENT_STREAM)

    async def _streamed(
        self, turn: Turn, response: Json, failure: Fail | None
    ) -> AsyncGenerator[bytes, None]:
        ended = False
        try:
            for number, event in enumerate(model.events(response, self._switches, failure)):
                if event["type"] in {"response.completed", "response.incomplete"}:
                    self._keep(turn, response)
                    ended = True
                yield _event(number, event)
                await asyncio.sleep(0)  # without it nobody would notice that the client left
            if failure is not None:
                self._fail(turn)
                ended = True
        finally:
            if not ended and failure is not None:
                self._fail(turn)
            elif not ended and self._switches.cut_stream == "stored":
                self._keep(turn, response)

    def _begun(self, told: Any) -> Turn:
        """What the model is shown, once everything about the request is found right."""
        body = checked(told, NewResponse)
        conversation = body.get("conversation")
        if isinstance(conversation, dict):
            conversation = conversation["id"]
        previous = body.get("previous_response_id")
        if conversation and previous:
            raise TWO_IDS
        model.checked_request(body)
        given = model.input_items(body["input"])
        held: list[Json] = []
        if conversation and self._store.conversation(conversation) is None:
            if self._switches.unknown_conversation == "refused":
                raise missing(f"Conversation with id '{conversation}'", self._switches)
            conversation = None
        if conversation:
            held = [item.body for item in self._store.items(conversation)]
        if previous:
            followed = self._store.response(previous)
            if followed is None:
                raise Refusal(f"Not found previous_response_id: {previous}")
            held = [*followed.shown, *followed.body["output"]]
        model.checked_pairs(held, given, self._switches)
        if conversation and self._switches.concurrent_turns == "locked":
            if conversation in self._service.busy:
                raise LOCKED
            self._service.busy.add(conversation)
        instructions = body.get("instructions")
        told = [model.message("system", instructions)] if instructions else []
        return Turn(body, conversation, held, given, [*told, *held, *given])

    def _release(self, turn: Turn) -> None:
        if turn.conversation:
            self._service.busy.discard(turn.conversation)

    def _response(
        self, body: Json, output: list[dict[str, Any]], *, short: bool = False
    ) -> dict[str, Any]:
        new_id = str(uuid.uuid4())
        response = {
            "created_at": int(self._service.clock.now()),
            "id": f"resp_{new_id}" if self._switches.response_ids == "resp" else new_id,
            "model": body.get("model"),
            "object": "response",
            "output": output,
            "parallel_tool_calls": False,
            "status": "incomplete" if short else "completed",
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
        }
        if short:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        conversation = body.get("conversation")
        if conversation and self._switches.conversation_echo == "yes":
            named = conversation if isinstance(conversation, dict) else {"id": conversation}
            response["conversation"] = named
        return response

    def _keep(self, turn: Turn, response: Json) -> None:
        """Adds the turn to its conversation, and keeps the response."""
        output = response["output"]
        kept = turn.body.get("store") is not False
        if kept:
            self._store.keep_response(response["id"], response, [*turn.held, *turn.given])
        if not turn.conversation or not (kept or self._switches.store_false == "appended"):
            return
        same = self._switches.output_ids == "kept"
        answered = [
            (
                item["id"] if same else model.new_item_id(),
                {key: value for key, value in item.items() if key != "id"},
            )
            for item in output
        ]
        self._add(turn.conversation, [*self._asked(turn), *answered])

    def _asked(self, turn: Turn) -> list[tuple[str, Json]]:
        """What a turn leaves of its input."""
        told, given = turn.body.get("instructions"), turn.given
        if told and self._switches.instructions == "stored":
            given = [model.message("system", told), *given]
        return [(model.new_item_id(), item) for item in given]

    def _add(self, conversation: str, items: list[tuple[str, Json]]) -> None:
        if self._switches.stored_items == "messages":
            items = [(item_id, item) for item_id, item in items if item["type"] == "message"]
        self._store.add(conversation, items)

    def _fail(self, turn: Turn) -> None:
        if turn.conversation and self._switches.failed_turn == "input_stored":
            self._add(turn.conversation, self._asked(turn))

    async def _retrieve(self, request: Request, _: Any) -> Response:
        wanted = request.path_params["response"]
        found = self._store.response(wanted)
        if found is None:
            raise missing(f"Response with id '{wanted}'", self._switches)
        return JSONResponse(found.body)

    async def _delete(self, request: Request, _: Any) -> Response:
        wanted = request.path_params["response"]
        if self._store.response(wanted) is None:
            raise missing(f"Response with id '{wanted}'", self._switches)
        self._store.delete_response(wanted)
        return deleted(wanted, None)

    async def _list_input_items(self, request: Request, _: Any) -> Response:
        wanted = request.path_params["response"]
        found = self._store.response(wanted)
        if found is None:
            raise missing(f"Response with id '{wanted}'", self._switches)
        limit, newest_first, after = paging(request)
        items = [
            StoredItem(
                item.get("id") or f"msg_{uuid.uuid5(uuid.NAMESPACE_OID, wanted + str(i))}",
                found.created,
                item,
            )
            for i, item in enumerate(found.shown)
        ]
        if newest_first:
            items.reverse()
        ids = [item.id for item in items]
        if after in ids:
            items = items[ids.index(after) + 1 :]
        elif after is not None and self._switches.unknown_after == "refused":
            raise missing(f"Item with id '{after}'", self._switches)
        page = self._service.shown_page(items[:limit], more=len(items) > limit)
        return JSONResponse(
            {
                **page,
                "id": wanted,
                "created_at": int(found.created * 1000),
                "model": found.body["model"],
            }
        )


def _event(number: int, event: Json) -> bytes:
    """An event as the service frames it: a comment line in each, no space behind the colons.

    help.aliyun.com, "OpenAI compatible - Responses", streaming output; read 2026-11-20.
    """
    data = json.dumps({"sequence_number": number, **event}, ensure_ascii=False)
    kind = event["type"]
    return f"id:{number + 1}\nevent:{kind}\n:HTTP_STATUS/200\ndata:{data}\n\n".encode()

"""A response, whole or as a stream of events; how the events become one.

`Reading` is fed one event after the other and says what is new in each. It has no I/O, so the
loop around it is all that exists once for threads and once for tasks.

Events as help.aliyun.com, "Responses API", streaming output, has them (read 2026-11-20), with
what was seen elsewhere accepted too: a function's arguments may come as deltas, in `.done`, with
the finished item, or only with the finished response.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from qwen_conv.errors import Failure, ServiceFailedError, StreamCutError, service_error
from qwen_conv.items import (
    FunctionCall,
    Item,
    Json,
    Message,
    Reasoning,
    from_wire,
    to_wire,
)

if TYPE_CHECKING:
    from qwen_conv.calls import Call


class Usage(NamedTuple):
    """Tokens of one response.

    `cache_read` and `cache_creation` are parts of `input_tokens`, `reasoning` of `output_tokens`.
    """

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cache_read: int = 0
    cache_creation: int = 0
    reasoning: int = 0

    @classmethod
    def from_wire(cls, wire: Json) -> Usage:
        """Reads the counts; those that the service leaves out are 0.

        Cache writes stand only in `x_details`, under a key that two documents name differently
        (help.aliyun.com, "Responses API" and "Retrieve a response"; read 2026-11-20).
        """
        read = (wire.get("input_tokens_details") or {}).get("cached_tokens") or 0
        created = 0
        for detail in wire.get("x_details") or ():
            for key in ("input_tokens_details", "prompt_tokens_details"):
                created = max(
                    created, (detail.get(key) or {}).get("cache_creation_input_tokens") or 0
                )
        sent, got = wire.get("input_tokens") or 0, wire.get("output_tokens") or 0
        return cls(
            sent,
            got,
            wire.get("total_tokens") or sent + got,
            read,
            created,
            (wire.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
        )


@dataclass(frozen=True, slots=True)
class Response:
    """What a model answered.

    Attributes:
        id: The response's id, a UUID or `resp_` and a UUID.
        status: "completed" or "incomplete".
        output: The items of the answer, in order.
        model: The model that answered.
        usage: The tokens, if they were told.
        created: Seconds since 1970.
        incomplete_reason: Why it is incomplete, if that was told.
        wire: The response as it came.
    """

    id: str
    status: str
    output: tuple[Item, ...]
    model: str
    usage: Usage | None
    created: float | None
    incomplete_reason: str | None
    wire: Json = field(repr=False, compare=False)

    @classmethod
    def from_wire(cls, wire: Json) -> Response:
        """Reads a response.

        Raises:
            ServiceError: The service says that the response failed.
            ServiceFailedError: It is no response at all.
        """
        status = wire.get("status")
        if status == "failed" or (wire.get("error") and status != "incomplete"):
            raise service_error(Failure.from_wire({"response": wire}))
        if not isinstance(wire.get("id"), str):
            raise ServiceFailedError(Failure("The service's answer is not a response"))
        usage = wire.get("usage")
        return cls(
            wire["id"],
            status or "completed",
            tuple(map(from_wire, wire.get("output") or ())),
            wire.get("model") or "",
            Usage.from_wire(usage) if usage else None,
            wire.get("created_at"),
            (wire.get("incomplete_details") or {}).get("reason"),
            wire,
        )


class TextDelta(NamedTuple):
    """More of the answer's text. `item_id` is the message's, as far as the stream tells it."""

    text: str
    item_id: str | None


class ReasoningDelta(NamedTuple):
    """More of what the model thinks."""

    text: str


class CallDelta(NamedTuple):
    """More of a function call. `call_id` and `name` come with its first piece."""

    output_index: int
    arguments: str
    call_id: str | None = None
    name: str | None = None


Delta = TextDelta | ReasoningDelta | CallDelta
NOTHING: tuple[Delta, ...] = ()
_FAILURE_KEYS = {"error", "code", "message"}


@dataclass(slots=True)
class _Call:
    """A function call that is being received: what is known of it and was passed on."""

    index: int
    pieces: list[str] = field(default_factory=list)
    call_id: str | None = None
    name: str | None = None

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class Reading:
    """Receives a stream: `feed` it every event, then take the `response`.

    Args:
        call: What the stream answers, for an error to say what is missing.
    """

    def __init__(self, call: Call[Response] | None = None) -> None:
        self._call_made = call
        self._text: list[str] = []  # all that was passed on
        self._message_from = 0  # where in it the message begins that is being received
        self._message_id: str | None = None
        self._thought = False
        self._calls: list[_Call] = []
        self._call_at: dict[object, _Call] = {}  # by output index, and by item id
        self._items_done: list[Json] = []
        self._final: Json | None = None
        self._response_id: str | None = None

    def feed(self, event: object) -> tuple[Delta, ...]:
        """What is new in this event.

        Raises:
            ServiceError: The event says that the response failed, or is no event.
        """
        if not isinstance(event, Mapping):
            raise ServiceFailedError(Failure("The stream holds something that is no event"))
        match event.get("type"):
            case "response.output_text.delta" | "response.refusal.delta":
                self._message_id = event.get("item_id") or self._message_id
                return self._more_text(event.get("delta") or "")
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                return self._more_thought(event.get("delta") or "")
            case "response.function_call_arguments.delta":
                return self._more_arguments(self._call(event), event.get("delta") or "")
            case "response.output_item.added":
                return self._begun(event, event.get("item") or {})
            case "response.output_text.done":
                return self._rest_of_text(event.get("text") or "")
            case "response.function_call_arguments.done":
                return self._rest_of_arguments(self._call(event), event.get("arguments") or "")
            case "response.output_item.done":
                return self._done(event, event.get("item") or {})
            case "response.completed" | "response.incomplete" as kind:
                return self._ended(event.get("response") or {}, kind.removeprefix("response."))
            case "response.created" | "response.in_progress":
                self._response_id = (event.get("response") or {}).get("id") or self._response_id
            case "response.failed":
                raise service_error(Failure.from_wire(event), self._call_made)
            case kind if not str(kind).startswith("response.") and _FAILURE_KEYS & event.keys():
                # An "error", a "server_error", or no type at all.
                raise service_error(Failure.from_wire(event), self._call_made)
        return NOTHING

    @property
    def response(self) -> Response:
        """The whole response, once the stream has ended.

        Raises:
            StreamCutError: The stream ended before the answer did.
        """
        if self._final is None:
            raise StreamCutError(
                "The stream ended without response.completed: the answer is not whole, and "
                "whether the conversation holds it is not known.",
                "".join(self._text),
                self._response_id,
            )
        return Response.from_wire(self._final)

    @property
    def received(self) -> tuple[Item, ...]:
        """The answer as it was passed on, piece by piece: what the caller now holds."""
        text = "".join(self._text)
        calls = [
            FunctionCall(call.call_id, call.name, call.arguments)
            for call in self._calls
            if call.call_id and call.name
        ]
        return (*((Message.of("assistant", text),) if text else ()), *calls)

    def _more_text(self, text: str) -> tuple[Delta, ...]:
        if not text:
            return NOTHING
        self._text.append(text)
        return (TextDelta(text, self._message_id),)

    def _rest_of_text(self, whole: str) -> tuple[Delta, ...]:
        """Passes on what the deltas left out of a message's text that is now known whole."""
        passed_on = "".join(self._text[self._message_from :])
        if not whole.startswith(passed_on):
            return NOTHING  # trimmed or mended by the server: what was shown stays as it was shown
        return self._more_text(whole.removeprefix(passed_on))

    def _more_thought(self, text: str) -> tuple[Delta, ...]:
        self._thought = self._thought or bool(text)
        return (ReasoningDelta(text),) if text else NOTHING

    def _call(self, event: Json, call_id: str | None = None) -> _Call:
        """The call that an event is about, begun if this is the first of it.

        A call is known by its `call_id`; pieces of its arguments name only its place.
        """
        places = [at for at in (event.get("output_index"), event.get("item_id")) if at is not None]
        found = [self._call_at[at] for at in places if at in self._call_at]
        if call_id is not None:
            found = [call for call in self._calls if call.call_id == call_id] or [
                call for call in found if call.call_id is None
            ]
        if found:
            return found[0]
        index = event.get("output_index")
        call = _Call(len(self._calls) if index is None else index)
        self._calls.append(call)
        self._call_at.update(dict.fromkeys(places, call))
        return call

    def _more_arguments(self, call: _Call, text: str) -> tuple[Delta, ...]:
        if not text:
            return NOTHING
        call.pieces.append(text)
        # A call without a name yet is passed on whole, when the finished item tells the name.
        return (CallDelta(call.index, text),) if call.name else NOTHING

    def _rest_of_arguments(self, call: _Call, whole: str) -> tuple[Delta, ...]:
        """Passes on what the deltas left out of a call's arguments that are now known whole."""
        if whole and not whole.startswith(call.arguments):
            raise ServiceFailedError(Failure("The stream contradicts itself in a call's arguments"))
        return self._more_arguments(call, whole.removeprefix(call.arguments))

    def _whole_call(self, event: Json, wire: Json) -> tuple[Delta, ...]:
        """Passes on what is new of a call, given as an item: as it begins, or as it is whole."""
        call = self._call({**event, "item_id": wire.get("id")}, wire.get("call_id"))
        news = self._rest_of_arguments(call, wire.get("arguments") or "")
        if call.name:
            return news
        call.call_id, call.name = wire.get("call_id"), wire.get("name")
        return (CallDelta(call.index, call.arguments, call.call_id, call.name),)

    def _begun(self, event: Json, wire: Json) -> tuple[Delta, ...]:
        match wire:
            case {"type": "message"}:
                self._message_from, self._message_id = len(self._text), wire.get("id")
            case {"type": "function_call", "call_id": str(), "name": str()}:
                return self._whole_call(event, wire)
        return NOTHING

    def _done(self, event: Json, wire: Json) -> tuple[Delta, ...]:
        """Passes on what the events before left out of an item that is now known whole."""
        self._items_done.append(wire)
        match from_wire(wire):
            case Message() as message:
                self._message_id = self._message_id or message.id
                return self._rest_of_text(message.text)
            case FunctionCall():
                return self._whole_call(event, wire)
            case Reasoning(text) if not self._thought:
                return self._more_thought(text)
        return NOTHING

    def _ended(self, wire: Json, status: str) -> tuple[Delta, ...]:
        """Keeps the final response; passes on what only it tells."""
        told = tuple(wire.get("output") or ())
        text = "".join(one.text for one in map(from_wire, told) if isinstance(one, Message))
        news: list[Delta] = []
        for index, item in enumerate(told):
            match from_wire(item):
                case FunctionCall():
                    news += self._whole_call({"output_index": index}, item)
                case Reasoning(thought) if not self._thought:
                    news += self._more_thought(thought)
        self._message_from = 0
        news += self._rest_of_text(text)
        self._final = {
            **wire,
            "output": told or self._items_done or [*map(to_wire, self.received)],
            "id": wire.get("id") or self._response_id,
            "status": wire.get("status") or status,
        }
        return tuple(news)

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

from qwen_conv.errors import (
    UNREADABLE,
    Failure,
    StreamCutError,
    UnreadableError,
    service_error,
)
from qwen_conv.items import (
    FunctionCall,
    Item,
    Json,
    Message,
    Reasoning,
    arguments_text,
    from_wire,
    mended,
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
        created = [
            _count(detail, key, "cache_creation_input_tokens")
            for detail in wire.get("x_details") or ()
            for key in ("input_tokens_details", "prompt_tokens_details")
        ]
        sent, got = _count(wire, "input_tokens"), _count(wire, "output_tokens")
        return cls(
            sent,
            got,
            _count(wire, "total_tokens") or sent + got,
            _count(wire, "input_tokens_details", "cached_tokens"),
            max(created, default=0),
            _count(wire, "output_tokens_details", "reasoning_tokens"),
        )


def _count(wire: object, *keys: str) -> int:
    """The number at the end of that path; 0 if there is none."""
    for key in keys:
        wire = wire.get(key) if isinstance(wire, Mapping) else None
    return wire if isinstance(wire, int) else 0


@dataclass(frozen=True, slots=True)
class Response:
    """What a model answered.

    Attributes:
        id: The response's id, a UUID or `resp_` and a UUID; `None` if the service told none.
        status: "completed" or "incomplete".
        output: The items of the answer, in order.
        model: The model that answered.
        usage: The tokens, if they were told.
        created: Seconds since 1970.
        incomplete_reason: Why it is incomplete, if that was told.
        wire: The response as it came.
    """

    id: str | None
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
        if not wire.keys() & {"id", "output"} or status not in {"completed", "incomplete", None}:
            said = f"a response that is {status!r}" if status else "no response"
            raise UnreadableError(Failure(f"The service's answer is {said}"))
        usage, details = wire.get("usage"), wire.get("incomplete_details")
        return cls(
            None if wire.get("id") is None else str(wire["id"]),
            status or "completed",
            tuple(from_wire(item) for item in wire.get("output") or () if item is not None),
            wire.get("model") or "",
            Usage.from_wire(usage) if isinstance(usage, Mapping) else None,
            wire.get("created_at"),
            details.get("reason") if isinstance(details, Mapping) else None,
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
    """A function call: its `call_id` and `name` once they are known, then all its arguments.

    The arguments are not passed on piece by piece: pieces of JSON are mended by whoever shows
    them, and a call that was cut off in the middle would be run with what is left of it.
    """

    output_index: int
    arguments: str
    call_id: str | None = None
    name: str | None = None


Delta = TextDelta | ReasoningDelta | CallDelta
NOTHING: tuple[Delta, ...] = ()
_FAILURE_KEYS = {"error", "code", "message"}


@dataclass(slots=True)
class _Call:
    """A function call that is being received, and what of it was passed on."""

    index: int
    arguments: str = ""
    call_id: str | None = None
    name: str | None = None
    whole: bool = False


class Reading:
    """Receives a stream: `feed` it every event, then take the `response`.

    Args:
        call: What the stream answers, for an error to say what is missing.

    Attributes:
        response_id: The response's id, once an event has told it.
    """

    def __init__(self, call: Call[Response] | None = None) -> None:
        self._call_made = call
        self._text: list[str] = []  # all that was passed on
        self._half = ""  # the first half of a character whose second half is to come
        self._message_from = 0  # where in the text the message begins that is being received
        self._message_id: str | None = None
        self._thoughts: list[set[object]] = []  # the places of each reasoning item passed on
        self._thought_part: object = None
        self._calls: list[_Call] = []
        self._call_at: dict[object, _Call] = {}  # by output index, and by item id
        self._items_done: list[Json] = []
        self._final: Json | None = None
        self.response_id: str | None = None

    def feed(self, event: object) -> tuple[Delta, ...]:
        """What is new in this event.

        Raises:
            ServiceError: The event says that the response failed, or is no event.
        """
        if not isinstance(event, Mapping):
            raise UnreadableError(Failure("The stream holds something that is no event"))
        try:
            return self._news(event)
        except UNREADABLE as error:
            raise UnreadableError(Failure(f"An event cannot be read: {error}")) from error

    @property
    def is_whole(self) -> bool:
        """Whether the answer has come to its end."""
        return self._final is not None

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
                self.text,
                self.response_id,
            )
        try:
            return Response.from_wire(self._final)
        except UNREADABLE as error:
            raise UnreadableError(Failure(f"The answer cannot be read: {error}")) from error

    @property
    def text(self) -> str:
        """The answer's text as far as it was passed on."""
        return "".join(self._text)

    @property
    def received(self) -> tuple[Item, ...]:
        """The answer as it was passed on, piece by piece: what the caller now holds."""
        text = self.text
        calls = [
            FunctionCall(call.call_id, call.name, call.arguments)
            for call in self._calls
            if call.call_id and call.name
        ]
        return (*((Message.of("assistant", text),) if text else ()), *calls)

    def _news(self, event: Json) -> tuple[Delta, ...]:
        match event.get("type"):
            case "response.output_text.delta" | "response.refusal.delta":
                self._message_id = event.get("item_id") or self._message_id
                return self._more_text(event.get("delta") or "")
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                part = event.get("summary_index"), event.get("content_index")
                return self._more_thought(_places(event), part, event.get("delta") or "")
            case "response.function_call_arguments.delta":
                self._call(_places(event)).arguments += event.get("delta") or ""
            case "response.output_item.added":
                return self._begun(event, event.get("item") or {})
            case "response.output_text.done":
                return self._rest_of_text(mended(event.get("text") or ""))
            case "response.function_call_arguments.done":
                return self._whole_call(self._call(_places(event)), arguments_text(event))
            case "response.output_item.done":
                return self._done(event, event.get("item") or {})
            case "response.completed" | "response.incomplete" as kind:
                return self._ended(event.get("response") or {}, kind.removeprefix("response."))
            case "response.created" | "response.in_progress":
                self.response_id = (event.get("response") or {}).get("id") or self.response_id
            case "response.failed":
                raise service_error(Failure.from_wire(event), self._call_made)
            case None if "output" in event:  # a server that does not stream
                return self._ended(event, event.get("status"))
            case kind if not str(kind).startswith("response.") and _FAILURE_KEYS & event.keys():
                # An "error", a "server_error", or no type at all.
                raise service_error(Failure.from_wire(event), self._call_made)
        return NOTHING

    def _more_text(self, text: str) -> tuple[Delta, ...]:
        if self._half or not text.isascii():
            text = self._half + text
            cut = len(text) - ("\ud800" <= text[-1:] <= "\udbff")
            text, self._half = mended(text[:cut]), text[cut:]
        if not text:
            return NOTHING
        self._text.append(text)
        return (TextDelta(text, self._message_id),)

    def _rest_of_text(self, whole: str) -> tuple[Delta, ...]:
        """Passes on what the deltas left out of a message's text that is now known whole."""
        passed_on = "".join(self._text[self._message_from :])
        self._half = ""
        if not whole.startswith(passed_on):
            return NOTHING  # trimmed or mended by the server: what was shown stays as it was shown
        return self._more_text(whole.removeprefix(passed_on))

    def _more_thought(self, places: set[object], part: object, text: str) -> tuple[Delta, ...]:
        """Passes on more of what the model thinks; an empty line parts two pieces of it."""
        if not text:
            return NOTHING
        new = not any(places & known for known in self._thoughts) if places else not self._thoughts
        parted = bool(self._thoughts) and (new or part != self._thought_part)
        if new:
            self._thoughts.append(places)
        self._thought_part = part
        return (ReasoningDelta("\n\n" + text if parted else text),)

    def _call(self, places: set[object], call_id: str | None = None) -> _Call:
        """The call that an event is about, begun if this is the first of it.

        A call is known by its `call_id`; pieces of its arguments name only its place.
        """
        found = [self._call_at[place] for place in places if place in self._call_at]
        if call_id is not None:
            found = [call for call in self._calls if call.call_id == call_id] or [
                call for call in found if call.call_id is None
            ]
        if found:
            return found[0]
        index = next((place for place in places if isinstance(place, int)), len(self._calls))
        call = _Call(index)
        self._calls.append(call)
        self._call_at.update(dict.fromkeys(places, call))
        return call

    def _named(self, event: Json, wire: Json) -> tuple[_Call, tuple[Delta, ...]]:
        """The call that an item is, and its name if that is new."""
        whole = from_wire(wire)
        assert isinstance(whole, FunctionCall)  # noqa: S101 - the callers saw that it is
        call = self._call(_places(event, wire), whole.call_id)
        if call.name:
            return call, NOTHING
        call.call_id, call.name = whole.call_id, whole.name
        return call, (CallDelta(call.index, "", call.call_id, call.name),)

    def _whole_call(self, call: _Call, arguments: str) -> tuple[Delta, ...]:
        """Passes on a call's arguments, once; a call without a name waits for it."""
        if call.whole:
            return NOTHING
        call.arguments = arguments or mended(call.arguments)
        call.whole = call.name is not None
        return (CallDelta(call.index, call.arguments),) if call.whole else NOTHING

    def _begun(self, event: Json, wire: Json) -> tuple[Delta, ...]:
        match from_wire(wire):
            case Message():
                self._message_from, self._message_id = len(self._text), wire.get("id")
            case FunctionCall():
                return self._named(event, wire)[1]
        return NOTHING

    def _done(self, event: Json, wire: Json) -> tuple[Delta, ...]:
        """Passes on what the events before left out of an item that is now known whole."""
        self._items_done.append(wire)
        match from_wire(wire):
            case Message() as message:
                self._message_id = self._message_id or message.id
                return self._rest_of_text(message.text)
            case FunctionCall() as whole:
                call, news = self._named(event, wire)
                return (*news, *self._whole_call(call, whole.arguments))
            case Reasoning(text) if not self._was_thought(_places(event, wire)):
                return self._more_thought(_places(event, wire), None, text)
        return NOTHING

    def _was_thought(self, places: set[object]) -> bool:
        return any(not known or places & known for known in self._thoughts)

    def _ended(self, wire: Json, status: str | None) -> tuple[Delta, ...]:
        """Keeps the final response; passes on what only it tells."""
        told = tuple(item for item in wire.get("output") or () if item is not None)
        items = tuple(map(from_wire, told))
        news: list[Delta] = []
        thoughts = [item.text for item in items if isinstance(item, Reasoning) and item.text]
        for text in thoughts[len(self._thoughts) :]:
            news += self._more_thought({object()}, None, text)
        for index, (one, item) in enumerate(zip(told, items, strict=True)):
            if isinstance(item, FunctionCall):
                call, named = self._named({"output_index": index}, one)
                news += [*named, *self._whole_call(call, item.arguments)]
        for call in self._calls:
            news += self._whole_call(call, "")
        self._message_from = 0
        news += self._rest_of_text("".join(one.text for one in items if isinstance(one, Message)))
        self._final = {
            **wire,
            "output": told or self._items_done or [*map(to_wire, self.received)],
            "id": wire.get("id") or self.response_id,
            "status": wire.get("status") or status,
        }
        return tuple(news)


def _places(event: Json, item: Json | None = None) -> set[object]:
    """Where in the answer an event's item stands, as far as the event tells: index and id."""
    found = event.get("output_index"), event.get("item_id"), (item or {}).get("id")
    return {place for place in found if place is not None}

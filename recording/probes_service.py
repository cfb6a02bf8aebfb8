"""The service as the probes ask it: seen on the wire, and with nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic, sleep
from typing import Any, NamedTuple, ParamSpec

from qwen_conv import QwenConversations, flows
from qwen_conv.api import finish
from qwen_conv.calls import Call, DeleteResponse
from qwen_conv.errors import (
    Failure,
    NotFoundError,
    QwenConvError,
    RequestRefusedError,
    ServiceError,
    blacken,
    service_error,
)
from qwen_conv.items import FunctionCall, Json, Message, from_wire
from qwen_conv.responses import Reading

P = ParamSpec("P")

QUESTION = "Say yes, and nothing else."
INSTRUCTIONS = "Answer in one word, in small letters."
COUNT = "Count from one to a hundred in words, one number a line, and say nothing else."
"""Takes a model some seconds to answer, whichever it is."""
ASK_FOR_NOTE = "Take a note of this: the shop opens at nine."
NOTE: Json = {
    "type": "function",
    "name": "take_note",
    "description": "Takes a note.",
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string", "description": "What to note."}},
        "required": ["text"],
    },
}
_CHOICES: tuple[str | Json, ...] = ("required", {"type": "function", "name": "take_note"}, "auto")
"""Ways of asking for a call, the documented one first; models that think may refuse to be forced
(help.aliyun.com, "OpenAI compatible - Responses", tool_choice; read 2026-11-20)."""
NO_MODEL = "__nope__"
"""A name that Qwen was seen to refuse, streamed and not (2026-09-27)."""

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LONG_ID = r"(?=[0-9A-Za-z-]*[0-9])[0-9A-Za-z-]{16,}"
_NEXT_DIGIT = str.maketrans("0123456789", "1234567890")
_FAILED = {"response.failed", "error", "server_error"}
_LONGEST_ERROR = 200  # characters
_LONGEST_PAUSE = 2.0  # seconds between two looks


class UnsettledError(Exception):
    """What was seen does not say which value the switch has; the message says why."""


class Plain(NamedTuple):
    """A turn that was answered in words, and what its conversation then listed."""

    conversation: str
    response: Json
    listed: list[Json]


class Called(NamedTuple):
    """A turn that was answered by calls of a function: its events, and the calls."""

    conversation: str
    events: list[Json]
    output: tuple[str, ...]
    calls: tuple[FunctionCall, ...]


@dataclass(frozen=True)
class _Post(Call[Json]):
    """Sends JSON and reads JSON; never sent twice, and no lock is taken for it."""

    method = "post"
    address: str
    sent: Json = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.address

    @property
    def repeatable(self) -> bool:
        return False

    @property
    def body(self) -> dict[str, Any]:
        return dict(self.sent)

    def reply(self, wire: Json) -> Json:
        return wire


@dataclass(frozen=True)
class _Get(Call[Json]):
    """Reads JSON."""

    method = "get"
    address: str
    parameters: Mapping[str, object]

    @property
    def path(self) -> str:
        return self.address

    @property
    def query(self) -> dict[str, object]:
        return dict(self.parameters)

    def reply(self, wire: Json) -> Json:
        return wire


class Service:
    """Asks the service, and remembers what it made there until that is deleted.

    Args:
        hub: What the service is reached through.
        model: The model that answers.
        patience: Seconds to wait for something to show that may come late.

    Attributes:
        fastest: Seconds that the fastest request took, which a way there and back is shorter than.
    """

    def __init__(self, hub: QwenConversations, model: str, patience: float) -> None:
        self.fastest = float("inf")
        self.patience = patience
        self._hub = hub
        self._api = hub.sync()
        self._model = model
        self._choices = _CHOICES
        self._conversations: list[str] = []
        self._responses: list[str] = []

    def get(self, path: str, **query: object) -> Json:
        """Reads something."""
        return self._send(_Get(path, query))

    def conversation(self, *items: Json) -> str:
        """The id of a new conversation with these items in it."""
        made = self._send(_Post("/conversations", {"items": [*items]} if items else {}))
        self._conversations.append(str(made["id"]))
        return self._conversations[-1]

    def add(self, conversation: str, item: Json) -> Json:
        """Adds an item to a conversation."""
        return self._send(_Post(f"/conversations/{conversation}/items", {"items": [item]}))

    def page(self, conversation: str, **query: object) -> list[Json]:
        """The first items that a conversation lists, oldest first."""
        path = f"/conversations/{conversation}/items"
        return list(self.get(path, order="asc", limit=100, **query)["data"])

    def listed(self, conversation: str, until: Callable[[list[Json]], object]) -> list[Json]:
        """What a conversation lists once it lists what is waited for, or patience is over."""
        deadline, pause = monotonic() + self.patience, 0.05
        while not until(items := self.page(conversation)):
            left = deadline - monotonic()
            if left <= 0:
                break
            sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return items

    def turn(self, **body: Any) -> Json:
        """Takes a turn; by default the model is asked something short."""
        response = self._send(_Post("/responses", self._turn(body)))
        self._note(response, body)
        return response

    def events(self, **body: Any) -> Generator[Json, None, None]:
        """The events of a streamed turn as they come; closing the iterator cuts the stream."""
        call = _Post("/responses", {**self._turn(body), "stream": True})
        with closing(self._api.stream(call)) as events:
            for event in events:
                if not isinstance(event, Mapping):
                    raise UnsettledError("the stream holds something that is no event")
                self._note(event.get("response") or {}, body)
                yield event

    def whole(self, **body: Any) -> tuple[list[Json], Reading]:
        """The events of a streamed turn, and what they come to.

        Raises:
            ServiceError: The turn is refused, or fails.
        """
        reading, seen = Reading(), []
        for event in self.events(**body):
            seen.append(event)
            reading.feed(event)
        return seen, reading

    def called(self) -> Called:
        """A turn in a conversation of its own whose calls nobody has answered yet.

        Raises:
            RequestRefusedError: The service refuses every way of asking for a call.
            UnsettledError: The model calls nothing.
        """
        conversation = self.conversation()
        refused: RequestRefusedError | None = None
        for choice in self._choices:
            asked = {"conversation": conversation, "input": ASK_FOR_NOTE, "tools": [NOTE]}
            try:
                events, reading = self.whole(**asked, tool_choice=choice)
            except RequestRefusedError as error:
                refused = error
                continue
            response = reading.response
            calls = tuple(one for one in response.output if isinstance(one, FunctionCall))
            if calls:
                self._choices = (choice,)
                output = tuple(str(one["type"]) for one in response.wire["output"])
                return Called(conversation, events, output, calls)
        self._choices = ()
        raise refused or UnsettledError("the model did not call the tool that it was asked to call")

    def called_and_held(self) -> Called:
        """`called`, once the conversation lists the calls, if this service lists any."""
        found = self.called()
        if self.lists_calls:
            self.listed(found.conversation, has_call)
        return found

    @cached_property
    def plain(self) -> Plain:
        """A turn that several probes look at."""
        conversation = self.conversation()
        response = self.turn(conversation=conversation, instructions=INSTRUCTIONS)
        return Plain(conversation, response, self.listed(conversation, has_answer))

    @property
    def plain_listed(self) -> list[Json]:
        """What the conversation of `plain` listed.

        Raises:
            UnsettledError: It did not list the answer.
        """
        if not has_answer(self.plain.listed):
            raise UnsettledError(f"the turn was not listed within {self.patience:g} s")
        return self.plain.listed

    @cached_property
    def tool_use(self) -> tuple[Called, list[Json]]:
        """A turn that called a function, and what its conversation then listed."""
        found = self.called()
        return found, self.listed(found.conversation, has_call)

    @property
    def lists_calls(self) -> bool:
        """Whether a conversation lists the calls of its turns."""
        return has_call(self.tool_use[1])

    @cached_property
    def missing(self) -> dict[str, ServiceError | None]:
        """What is told of a conversation, an item and a response that are not there."""
        conversation = self.conversation(message("user", QUESTION))
        item = self.listed(conversation, bool)[0]["id"]
        paths = {
            "conversation": f"/conversations/{other(conversation)}",
            "item": f"/conversations/{conversation}/items/{other(item)}",
            "response": f"/responses/{other(str(self.plain.response['id']))}",
        }
        return {what: self.refusal(self.get, path) for what, path in paths.items()}

    @staticmethod
    def refusal(ask: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> ServiceError | None:
        """What the service refuses something with; `None` if it does not."""
        try:
            ask(*args, **kwargs)
        except (RequestRefusedError, NotFoundError) as error:
            return error
        return None

    def told(self, error: BaseException | None) -> str:
        """What came of a request: its error in one line, or that there was none."""
        if error is None:
            return "200"
        blacken(error, self._hub.secret)
        said = str(error).removesuffix(f". {getattr(error, 'advice', '')}")
        said = shape(f"{type(error).__name__}: {re.sub(', request [^)]*', '', said)}")
        return said if len(said) <= _LONGEST_ERROR else f"{said[:_LONGEST_ERROR]}..."

    def clean_up(self) -> list[str]:
        """Deletes all that was made; says what is left because it could not be deleted."""
        left = []
        conversations, self._conversations = self._conversations, []
        responses, self._responses = self._responses, []
        for conversation in conversations:
            left += self._gone(conversation, flows.delete, conversation)
        for response in dict.fromkeys(responses):
            left += self._gone(f"response {response}", flows.send, DeleteResponse(response))
        return left

    def _gone(self, what: str, flow: Callable[..., Any], *args: Any) -> list[str]:
        try:
            self._hub.run(flow, *args)
        except NotFoundError:
            pass
        except QwenConvError as error:
            return [f"{what} could not be deleted: {self.told(error)}"]
        return []

    def _send(self, call: Call[Json]) -> Json:
        began = monotonic()
        answer = finish(self._api.send(call))
        self.fastest = min(self.fastest, monotonic() - began)
        return answer

    def _turn(self, body: Json) -> Json:
        return {"model": self._model, "input": QUESTION, **body}

    def _note(self, response: Json, body: Json) -> None:
        if body.get("store") is not False and response.get("id"):
            self._responses.append(str(response["id"]))


def message(role: str, text: str) -> Json:
    """A message as it is created."""
    return {"type": "message", "role": role, "content": text}


def has_answer(items: Iterable[Json]) -> bool:
    """Whether a model's answer in words is among the items."""
    return any(item.get("role") == "assistant" for item in items)


def has_call(items: Iterable[Json]) -> bool:
    """Whether a function call is among the items."""
    return any(item.get("type") == "function_call" for item in items)


def text_of(item: Json) -> str:
    """What an item says in words, if it is a message."""
    found = from_wire(item)
    return found.text if isinstance(found, Message) else ""


def failed(event: Json) -> ServiceError | None:
    """What an event says that the turn fails with."""
    kind = event.get("type")
    if kind in _FAILED or (kind is None and event.keys() & {"error", "code"}):
        return service_error(Failure.from_wire(event))
    return None


def other(known: str) -> str:
    """An id of the same form that names nothing."""
    return known.translate(_NEXT_DIGIT)


def shape(text: str) -> str:
    """The text with ids left out, in one line."""
    return " ".join(re.sub(_LONG_ID, "<id>", re.sub(UUID, "<uuid>", text)).split())

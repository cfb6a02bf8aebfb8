"""What a conversation holds, as values: messages and their parts, tool calls, tool results.

`from_wire` reads the service's JSON, `to_wire` writes it; the law is

    from_wire(to_wire(item)) == item

for every item. Nothing is lost on the way in: a type that this module does not know is kept as
it came (`OtherItem`, `OtherPart`). An id or a status says where an item is stored, not what it
is, so neither counts for equality.

`fingerprints` says whether two items are the same to a model. It forgets what does not survive a
framework: where a text is cut into parts, and in which order an answer's text and its tool calls
stand.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

from qwen_conv.errors import NotRepresentableError

Json = Mapping[str, Any]
Role = Literal["user", "assistant", "system", "developer"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text; `annotations` are the citations of an answer, as they came."""

    text: str
    annotations: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """An image, by an https address or as a data URI."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The words in which a model declined."""

    text: str


@dataclass(frozen=True, slots=True)
class OtherPart:
    """A part of a message that is sent and kept as it is: audio, video, files, what is to come."""

    wire: Json


Part = Text | Image | Refusal | OtherPart


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation: the only item that the Conversations API creates.

    docs.qwencloud.com, "Create items": "Only message is supported"; read 2026-11-20.
    """

    role: Role
    content: tuple[Part, ...]
    id: str | None = field(default=None, compare=False)
    status: str | None = field(default=None, compare=False)

    @classmethod
    def of(cls, role: Role, text: str) -> Message:
        """A message of one text."""
        return cls(role, (Text(text),))

    @property
    def text(self) -> str:
        """What is said in words, joined without anything between."""
        return "".join(part.text for part in self.content if isinstance(part, Text | Refusal))


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The model asks for a function to be run. `arguments` is JSON text, as the model wrote it."""

    call_id: str
    name: str
    arguments: str
    id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FunctionOutput:
    """What a function returned for the call of that id."""

    call_id: str
    output: str
    id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a model thought before it answered. It is shown, and never sent back."""

    text: str
    id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class OtherItem:
    """An item of a type unknown here (a built-in tool's call, say), kept as it came."""

    wire: Json

    @property
    def id(self) -> str | None:
        """The item's id, if it has one."""
        return self.wire.get("id")


Item = Message | FunctionCall | FunctionOutput | Reasoning | OtherItem


def from_wire(wire: Json) -> Item:
    """The item that a piece of the service's JSON stands for; unknown types are kept.

    Raises:
        TypeError: It is no JSON object, or its content is no list.
    """
    match wire:
        case {"type": "message"} | {"role": _, "content": _}:
            return _message_from_wire(wire)
        case {"type": "function_call", "name": str(name)} if (
            call_id := _call_id(wire)
        ) is not None:
            return FunctionCall(call_id, name, arguments_text(wire), wire.get("id"))
        case {"type": "function_call_output", "call_id": call_id, "output": str(output)}:
            return FunctionOutput(call_id, output, wire.get("id"))
        case {"type": "reasoning"}:
            return Reasoning(_reasoning_text(wire), wire.get("id"))
        case Mapping():
            return OtherItem(wire)
    raise TypeError(f"an item is {wire!r}")


def to_wire(item: Item) -> dict[str, Any]:
    """The JSON that stands for an item; without its id, which the service gives anew."""
    match item:
        case Message(role, content):
            return {"type": "message", "role": role, "content": _content_to_wire(role, content)}
        case FunctionCall(call_id, name, arguments):
            return {
                "type": "function_call",
                "call_id": call_id,
                "name": name,
                "arguments": arguments,
            }
        case FunctionOutput(call_id, output):
            return {"type": "function_call_output", "call_id": call_id, "output": output}
        case Reasoning(text):
            return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
        case OtherItem(wire):
            return dict(wire)


def input_to_wire(items: Iterable[Item]) -> str | list[dict[str, Any]]:
    """The `input` of a turn: a plain text where that says it all, as it is the shortest.

    `type` may be left out of a message there (help.aliyun.com, "Responses API", input, read
    2026-11-20: EasyInputMessage), which the create of items does not allow.
    """
    wires = [to_wire(item) for item in items]
    match wires:
        case [{"type": "message", "role": "user", "content": str(text)}]:
            return text
    for wire in wires:
        if wire["type"] == "message":
            del wire["type"]
    return wires


def _message_from_wire(wire: Json) -> Message:
    content = wire.get("content")
    if isinstance(content, str):
        parts: tuple[Part, ...] = (Text(mended(content)),)
    else:
        parts = tuple(_part_from_wire(part) for part in content or () if part is not None)
    return Message(wire.get("role") or "user", parts, wire.get("id"), wire.get("status"))


def _part_from_wire(wire: Json) -> Part:
    match wire:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            cited = [one for one in wire.get("annotations") or () if isinstance(one, Mapping)]
            return Text(mended(text), tuple(cited))
        case {"type": "input_image", "image_url": str(url)}:
            return Image(url, wire.get("detail"))
        case {"type": "refusal", "refusal": str(text)}:
            return Refusal(text)
        case Mapping():
            return OtherPart(wire)
    raise TypeError(f"a part of a message is {wire!r}")


def _content_to_wire(role: Role, content: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    match content:
        case (Text(text, ()),):
            return text
    return [_part_to_wire(role, part) for part in content]


def _part_to_wire(role: Role, part: Part) -> dict[str, Any]:
    match part:
        case Text(text, annotations):
            kind = "output_text" if role == "assistant" else "input_text"
            cited = {"annotations": [*annotations]} if annotations else {}
            return {"type": kind, "text": text, **cited}
        case Image(url, detail):
            wanted = {"detail": detail} if detail else {}
            return {"type": "input_image", "image_url": url, **wanted}
        case Refusal(text):
            return {"type": "refusal", "refusal": text}
        case OtherPart(wire):
            return dict(wire)


def _reasoning_text(wire: Json) -> str:
    pieces = [*(wire.get("summary") or ()), *(wire.get("content") or ())]
    said = [piece.get("text") for piece in pieces if isinstance(piece, Mapping)]
    return "\n\n".join(mended(text) for text in said if isinstance(text, str))


def _call_id(wire: Json) -> str | None:
    """What the result of a call has to name: its `call_id`; some servers give only the `id`."""
    call_id: str | None = wire.get("call_id")
    return wire.get("id") if call_id is None else call_id


def arguments_text(wire: Json) -> str:
    """A call's arguments as JSON text, whether they came as text, as JSON, or not at all."""
    arguments = wire.get("arguments")
    if isinstance(arguments, str):
        return mended(arguments)
    return "" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def mended(text: str) -> str:
    """A text of the service without halves of characters, which nothing could send back.

    JSON can name the halves of a character beyond U+FFFF one by one: two that belong together are
    joined, one that stands alone becomes U+FFFD.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def said_together(items: Iterable[Item]) -> Iterator[tuple[Item, ...]]:
    """The items message by message, as frameworks hold them: an answer is all that a model says.

    An answer's thoughts and built-in tools stand before its text, its tool calls behind it.
    """
    answer: list[Item] = []
    for item in items:
        is_answers = isinstance(item, FunctionCall | Reasoning | OtherItem) or (
            isinstance(item, Message) and item.role == "assistant"
        )
        begins = not isinstance(item, FunctionCall) and any(
            isinstance(one, Message | FunctionCall) for one in answer
        )
        if answer and (begins or not is_answers):
            yield tuple(answer)
            answer = []
        if is_answers:
            answer.append(item)
        else:
            yield (item,)
    if answer:
        yield tuple(answer)


def is_system(item: Item) -> bool:
    """Whether the item is a system message."""
    return isinstance(item, Message) and item.role in {"system", "developer"}


def as_users(item: Item) -> Item:
    """The item as some services list it: a system message as the user's.

    docs.qwencloud.com, "List items", shows as `user` what "Conversations" creates as `system`; read
    2026-11-20.
    """
    return replace(item, role="user") if isinstance(item, Message) and is_system(item) else item


Fingerprint = str
"""Twelve characters that stand for what an item says; see `fingerprints`."""


def fingerprints(items: Sequence[Item]) -> tuple[Fingerprint, ...]:
    """What the items say to a model, comparable across the wire, a framework and a database.

    Reasoning and unknown items are left out: they are never sent back, so a list may lack them.
    Texts of one answer count as one, before its tool calls: that is how frameworks hold it.

    Raises:
        NotRepresentableError: A text holds half of a character, which nothing can send.
    """
    found: list[Fingerprint] = []
    answer: list[Part] = []
    calls: list[FunctionCall] = []
    for item in items:
        match item:
            case Message("assistant", content):
                answer += content
            case Message(role, content):
                _close_answer(found, answer, calls)
                found.append(_digest(role, _said(role, content)))
            case FunctionCall():
                calls.append(item)
            case FunctionOutput(call_id, output):
                _close_answer(found, answer, calls)
                found.append(_digest("output", f"{call_id}\0{output}"))
    _close_answer(found, answer, calls)
    return tuple(found)


def _close_answer(found: list[Fingerprint], answer: list[Part], calls: list[FunctionCall]) -> None:
    if answer:
        said = _said("assistant", answer)
        if said != _NOTHING:  # an empty text beside tool calls comes and goes between servers
            found.append(_digest("assistant", said))
        answer.clear()
    for call in calls:
        written = _canonical(call.arguments)
        found.append(_digest("call", f"{call.call_id}\0{call.name}\0{written}"))
    calls.clear()


_NOTHING = "t"


def _said(role: Role, content: Sequence[Part]) -> str:
    """The content with neighbouring texts joined: "t" and a text, or "j" and JSON."""
    if all(isinstance(part, Text | Refusal) for part in content):
        return _NOTHING + "".join(part.text for part in content)  # type: ignore[union-attr]  # as was just seen
    joined: list[Any] = []
    for part in content:
        match part:
            case Text(text) | Refusal(text):
                if joined and isinstance(joined[-1], str):
                    joined[-1] += text
                else:
                    joined.append(text)
            case _:
                joined.append(_part_to_wire(role, part))
    return "j" + json.dumps(joined, ensure_ascii=False, sort_keys=True)


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments or "{}"), ensure_ascii=False, sort_keys=True)
    except ValueError:
        return arguments


def _digest(kind: str, said: str) -> Fingerprint:
    try:
        told = f"{kind}\0{said}".encode()
    except UnicodeEncodeError as error:
        raise NotRepresentableError(
            f"A message holds {error.object[error.start]!a}, half of a character (a lone "
            "surrogate), which no JSON text can carry: decode its source with errors='replace'."
        ) from None
    return urlsafe_b64encode(blake2b(told, digest_size=9).digest()).decode()

"""LangChain's messages <-> the core's items.

`to_core` and `from_core` are a mirrored pair: for every answer, `to_core(from_core(items))` says
what `items` say. What has no place on the wire and is not sent: a message's `name`, `id`,
`additional_kwargs` and `response_metadata`, a tool message's `artifact` and `status`, all
reasoning, and what the service's own tools did. What has no place and would be missed is refused
(`NotRepresentableError`).

Content is read through LangChain's own standard blocks (`content_blocks`), so that the formats of
other providers are understood as far as LangChain understands them.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    HumanMessageChunk,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from langchain_qwen_conv.profiles import PROVIDER
from qwen_conv.errors import NotRepresentableError
from qwen_conv.items import (
    FunctionCall,
    FunctionOutput,
    Image,
    Item,
    Message,
    OtherItem,
    OtherPart,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
)
from qwen_conv.local import Entry, key_of
from qwen_conv.stamps import Stamp
from qwen_conv.tools import arguments_of, arguments_to_wire

STAMP = "stamp"
"""Where a message's stamp stands in its `response_metadata`."""

_PLAIN_ROLES: dict[type[BaseMessage], Role] = {
    HumanMessage: "user",
    HumanMessageChunk: "user",
    AIMessage: "assistant",
    AIMessageChunk: "assistant",
}
_CHAT_ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "developer",
}

_NEVER_SENT_BACK = {
    "reasoning",
    "thinking",
    "redacted_thinking",
    "reasoning_content",
    "server_tool_call",
    "server_tool_call_chunk",
    "server_tool_result",
}
_SAID_IN_TOOL_CALLS = {
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "tool_use",
    "function_call",
}


def keys(messages: Iterable[BaseMessage]) -> tuple[Hashable, ...]:
    """What `key_of(to_core(message))` is of each, told at a glance for those that are only text.

    Every turn asks this of the whole list, so it is one expression.
    """
    return tuple(
        [
            (role, content)
            if type(content := message.content) is str
            and (role := _PLAIN_ROLES.get(type(message)))
            and (role == "user" or not (message.tool_calls or message.invalid_tool_calls))  # type: ignore[attr-defined]  # an AIMessage, says the table
            else key_of(to_core(message))
            for message in messages
        ]
    )


def to_entry(message: BaseMessage) -> Entry:
    """The message as the decision sees it: its items, and its claim of where it is stored."""
    return Entry(to_core(message), stamp_of(message))


def stamp_of(message: BaseMessage) -> Stamp | None:
    """The message's claim of where it is stored."""
    return Stamp.from_dict(message.response_metadata.get(STAMP))


def to_core(message: BaseMessage) -> tuple[Item, ...]:
    """The items that a message is on the wire, in order; an answer that says nothing is none.

    Raises:
        NotRepresentableError: The wire has no place for what the message holds.
    """
    match message:
        case AIMessage():
            return (*_said(message), *_calls(message))
        case ToolMessage():
            return (FunctionOutput(message.tool_call_id, _only_text(message)),)
        case HumanMessage():
            return (_told(message, "user", _parts(message)),)
        case SystemMessage():
            role: Role = "system"
            if message.additional_kwargs.get("__openai_role__") == "developer":
                role = "developer"
            return (_told(message, role, (Text(_only_text(message)),)),)
        case ChatMessage(role=name) if name in _CHAT_ROLES:
            return (_told(message, _CHAT_ROLES[name], _parts(message)),)
    raise NotRepresentableError(
        f"A {type(message).__name__} cannot be sent to Qwen: use a HumanMessage, AIMessage, "
        "SystemMessage or ToolMessage (a ChatMessage only with one of their roles)."
    )


def _told(message: BaseMessage, role: Role, parts: tuple[Part, ...]) -> Message:
    if _empty(parts):
        raise NotRepresentableError(
            f"A {type(message).__name__} is empty, and no conversation takes an empty message: "
            "leave it out, or say something in it."
        )
    return Message(role, parts)


def is_system(message: BaseMessage) -> bool:
    """Whether a message is a part of the system prompt."""
    return isinstance(message, SystemMessage) or (
        isinstance(message, ChatMessage)
        and _CHAT_ROLES.get(message.role) in {"system", "developer"}
    )


def instructions(messages: Iterable[BaseMessage]) -> str:
    """The text that leading system messages are as the `instructions` of a turn."""
    return "\n\n".join(map(_only_text, messages))


def from_core(items: Iterable[Item]) -> dict[str, Any]:
    """The content, tool calls and ids of the message that an answer's items are.

    Returns:
        Keyword arguments for `AIMessage`, also for the parts of an `AIMessageChunk` that only
        come with the last chunk.
    """
    text: list[str] = []
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    ids: list[str] = []
    extra: dict[str, Any] = {}
    for item in items:
        match item:
            case Message():
                text.append(item.text)
                others = [dict(part.wire) for part in item.content if isinstance(part, OtherPart)]
                if others:
                    extra.setdefault("output_items", []).extend(others)
                ids[:0] = [item.id] if item.id and len(text) == 1 else []
                extra = _with_citations(extra, item)
            case FunctionCall():
                call = _tool_call(item)
                (calls if call["type"] == "tool_call" else invalid).append(call)  # type: ignore[arg-type]  # the type says which
            case Reasoning():
                thought = [extra["reasoning_content"]] if "reasoning_content" in extra else []
                extra["reasoning_content"] = "\n\n".join([*thought, item.text])
            case OtherItem(wire):
                extra.setdefault("output_items", []).append(dict(wire))
        if item.id and not isinstance(item, Message):
            ids.append(item.id)
    return {
        "content": "".join(text),
        "tool_calls": calls,
        "invalid_tool_calls": invalid,
        "additional_kwargs": extra,
        "id": ids[0] if ids else None,
    }


def from_stored(items: Sequence[Item]) -> BaseMessage:
    """The message that some items of a conversation are; see `said_together`.

    The mirror of `to_core`: what it says is what the items say.
    """
    match items:
        case [FunctionOutput(call_id, output)]:
            return ToolMessage(output, tool_call_id=call_id, id=items[0].id)
        case [Message("user", content)]:
            return HumanMessage(_content(content), id=items[0].id)
        case [Message("system", content)]:
            return SystemMessage(_content(content), id=items[0].id)
        case [Message("developer", content)]:
            role = {"__openai_role__": "developer"}
            return SystemMessage(_content(content), additional_kwargs=role, id=items[0].id)
    return AIMessage(**from_core(items))


def _content(parts: tuple[Part, ...]) -> Any:
    match parts:
        case (Text(text),):
            return text
    return [_block(part) for part in parts]


def _block(part: Part) -> dict[str, Any]:
    """The standard block that a part is; the mirror of `_part`."""
    match part:
        case Text(text) | Refusal(text):
            return {"type": "text", "text": text}
        case Image(url, detail):
            extras = {"extras": {"detail": detail}} if detail else {}
            kind, found, data = url.removeprefix("data:").partition(";base64,")
            if url.startswith("data:") and found:
                return {"type": "image", "base64": data, "mime_type": kind, **extras}
            return {"type": "image", "url": url, **extras}
        case OtherPart({"type": "input_audio", "audio_url": str(url)}):
            return {"type": "audio", "url": url}
        case OtherPart({"type": "input_audio", "data": str(data), "format": str(form)}):
            return {"type": "audio", "base64": data, "mime_type": f"audio/{form}"}
        case OtherPart({"type": "input_video", "video_url": str(url)}):
            return {"type": "video", "url": url}
        case OtherPart({"type": "input_file", "file_url": str(url)}):
            return {"type": "file", "url": url}
        case OtherPart(wire):
            return {"type": "non_standard", "value": dict(wire)}


def _tool_call(call: FunctionCall) -> ToolCall | InvalidToolCall:
    arguments = arguments_of(call.arguments)
    if arguments is not None:
        return ToolCall(name=call.name, args=arguments, id=call.call_id, type="tool_call")
    return InvalidToolCall(
        name=call.name,
        args=call.arguments,
        id=call.call_id,
        error="the arguments are not a JSON object",
        type="invalid_tool_call",
    )


def _with_citations(extra: dict[str, Any], message: Message) -> dict[str, Any]:
    cited = [
        dict(citation)
        for part in message.content
        if isinstance(part, Text)
        for citation in part.annotations
    ]
    declined = "".join(part.text for part in message.content if isinstance(part, Refusal))
    if cited:
        extra = {**extra, "annotations": [*extra.get("annotations", []), *cited]}
    if declined:
        extra = {**extra, "refusal": extra.get("refusal", "") + declined}
    return extra


def _said(message: AIMessage) -> Iterator[Item]:
    """The message of an answer, if it says anything in words."""
    if isinstance(message.content, str):
        parts: tuple[Part, ...] = (Text(message.content),)
    else:
        parts = tuple(_answer_parts(message))
    if not _empty(parts):
        yield Message("assistant", parts)


def _answer_parts(message: AIMessage) -> Iterator[Part]:
    is_ours = message.response_metadata.get("model_provider") == PROVIDER
    for block in message.content_blocks:
        wire: Mapping[str, Any] = block
        if wire["type"] == "non_standard":
            wire = block["value"]  # type: ignore[typeddict-item]  # its type was just read
        match wire.get("type"):
            case "text":
                yield Text(wire["text"])
            case "refusal":
                yield Refusal(wire["refusal"])
            case kind if kind in _NEVER_SENT_BACK or kind in _SAID_IN_TOOL_CALLS:
                pass
            case _ if block["type"] == "non_standard" and is_ours:
                pass  # an item of the service's own, which answered it
            case kind:
                raise _unplaced(message, kind, "an answer is text and tool calls")


def _calls(message: AIMessage) -> Iterator[Item]:
    for call in message.tool_calls:
        yield FunctionCall(_call_id(call), call["name"], arguments_to_wire(call["args"]))
    for broken in message.invalid_tool_calls:
        yield FunctionCall(_call_id(broken), broken["name"] or "", _broken(broken["args"] or ""))


def _broken(arguments: str) -> str:
    """A broken call's arguments as the model wrote them.

    A stream passes them on as a JSON text, for LangChain mends broken JSON in a stream, and a
    call that was cut off would be run.
    """
    try:
        text = json.loads(arguments)
    except ValueError:
        return arguments
    return text if isinstance(text, str) else arguments


def _call_id(call: ToolCall | InvalidToolCall) -> str:
    if call["id"]:
        return call["id"]
    raise NotRepresentableError(
        f"The tool call of {call['name']!r} has no id, and its result could not be told apart: "
        "give it one."
    )


def _only_text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    text = []
    for block in message.content_blocks:
        if block["type"] != "text":
            raise _unplaced(message, block["type"], "only text can be sent there")
        text.append(block["text"])
    return "".join(text)


def _parts(message: BaseMessage) -> tuple[Part, ...]:
    if isinstance(message.content, str):
        return (Text(message.content),)
    return tuple(_part(message, block) for block in message.content_blocks)


def _part(message: BaseMessage, block: Mapping[str, Any]) -> Part:
    """A part of what a user says. Forms: help.aliyun.com, "Responses API", read 2026-11-20."""
    match block:
        case {"type": "text" | "text-plain", "text": str(text)}:
            return Text(text)
        case {"type": "image", "url": str(url)}:
            return Image(url, block.get("extras", {}).get("detail"))
        case {"type": "image", "base64": str(data), "mime_type": str(kind)}:
            return Image(f"data:{kind};base64,{data}", block.get("extras", {}).get("detail"))
        case {"type": "audio", "url": str(url)}:
            return OtherPart({"type": "input_audio", "audio_url": url})
        case {"type": "audio", "base64": str(data), "mime_type": str(kind)}:
            form = kind.partition("/")[2]
            return OtherPart({"type": "input_audio", "data": data, "format": form})
        case {"type": "video", "url": str(url)}:
            return OtherPart({"type": "input_video", "video_url": url})
        case {"type": "file", "url": str(url)}:
            return OtherPart({"type": "input_file", "file_url": url})
        case {"type": "non_standard", "value": {"type": "image_url", "image_url": str(url)}}:
            return Image(url)
        case {
            "type": "non_standard",
            "value": {"type": "video_url", "video_url": {"url": str(url)}},
        }:
            return OtherPart({"type": "input_video", "video_url": url})
        case {"type": "non_standard", "value": {"type": "input_text", "text": str(text)}}:
            return Text(text)
        case {"type": "non_standard", "value": {"type": "input_image", "image_url": str(url)}}:
            return Image(url, block["value"].get("detail"))
        case {"type": "non_standard", "value": {"type": str(kind)} as wire} if kind.startswith(
            "input_"
        ):
            return OtherPart(wire)
    inner = block["value"] if block["type"] == "non_standard" else block
    raise _unplaced(
        message,
        inner.get("type"),
        "text, images and audio (by 'url', or 'base64' and 'mime_type'), and videos and files by "
        "'url' can be sent",
    )


def _empty(parts: tuple[Part, ...]) -> bool:
    return all(part == Text("") for part in parts)


def _unplaced(message: BaseMessage, kind: object, possible: str) -> NotRepresentableError:
    return NotRepresentableError(
        f"A {type(message).__name__} holds a {kind!r} block, which cannot be sent to Qwen: "
        f"{possible}."
    )

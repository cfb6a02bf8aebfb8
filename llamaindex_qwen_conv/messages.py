"""LlamaIndex's messages <-> the core's items.

`to_core` and `from_core` are a mirrored pair. The law is that a message says what its items say,

    fingerprints(to_core(from_core(items))) == fingerprints(items)

and where texts are cut is decided by it: a user's text blocks are the parts of one item, one each.
Anybody else's are one text, with line breaks between the blocks, as `message.content` has it and
as LlamaIndex's engines put an answer into a memory; so `from_core` makes one block of an answer's
texts, joined without anything between.

What has no place on the wire and is not sent: thinking, cache points, the titles and sources of
blocks, a video's `detail`, and all of `additional_kwargs` but tool calls and their ids. What has no
place and would be missed is refused (`NotRepresentableError`). What has no place in a message is
shown in its `additional_kwargs["output_items"]`: an answer goes without it, as it is a model's own,
but what others said is never sent in part.

LlamaIndex's forms: llama-index-core 0.14.25, `llama_index/core/base/llms/types.py`, read
2026-11-20.
"""

from __future__ import annotations

import copy
from base64 import b64encode
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from llama_index.core.base.llms.types import (
    AudioBlock,
    BaseContentBlock,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)

from qwen_conv.errors import NotRepresentableError, UsageError
from qwen_conv.items import (
    FunctionCall,
    FunctionOutput,
    Image,
    Item,
    Message,
    OtherPart,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    to_wire,
)
from qwen_conv.local import key_of
from qwen_conv.tools import arguments_of, arguments_to_wire

OUTPUT_ITEMS = "output_items"
"""Where a message's `additional_kwargs` show what it has no block for, as it is on the wire."""

_TOOL_CALL_ID = "tool_call_id"
"""Where LlamaIndex's agents name the call that a tool message answers: in `additional_kwargs`."""

_TOOL_CALLS = "tool_calls"
"""Where LLMs put the calls of an answer before there were blocks for them: in `additional_kwargs`,
as the provider's own JSON or objects."""

_ROLES: dict[str, Role | Literal["tool"]] = {
    "user": "user",
    "assistant": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
}
"""`MessageRole` -> who speaks."""


def key(message: ChatMessage) -> Hashable:
    """What `key_of(to_core(message))` is, told at a glance for a message that is only text.

    Raises:
        NotRepresentableError: As `to_core` does.
    """
    role = _ROLES.get(message.role)
    if (
        role is not None
        and role != "tool"
        and message.additional_kwargs.keys().isdisjoint((_TOOL_CALLS, OUTPUT_ITEMS))
        and all(type(block) is TextBlock for block in message.blocks)
    ):
        texts = [block.text for block in message.blocks]  # type: ignore[union-attr]  # as was just seen
        text = "".join(texts) if role == "user" else _joined(texts)
        if text or role == "assistant":
            return role, text
    return key_of(to_core(message))


def to_core(message: ChatMessage, model: str = "") -> tuple[Item, ...]:
    """The items that a message is on the wire, in order; an answer that says nothing is none.

    An image or audio of a path or an open file is read, each time.

    Args:
        message: The message.
        model: The model that it is for, to name it in an error.

    Raises:
        NotRepresentableError: The wire has no place for what the message holds.
    """
    match _ROLES.get(message.role):
        case "assistant":
            text = _text(message, model)
            said = (Message.of("assistant", text),) if text else ()
            return (*said, *_calls(message))
        case "tool":
            return (FunctionOutput(_answered_call(message), _text(message, model)),)
        case "user":
            return (_told(message, "user", tuple(_parts(message, model))),)
        case "system" | "developer" as role:
            return (_told(message, role, (Text(_text(message, model)),)),)
    raise NotRepresentableError(
        f"A message of the role {_role(message)!r} cannot be sent to Qwen: use 'user', "
        "'assistant', 'system', 'developer' or 'tool'."
    )


def is_system(message: ChatMessage) -> bool:
    """Whether a message is a part of the system prompt."""
    return _ROLES.get(message.role) in {"system", "developer"}


def instructions(messages: Iterable[ChatMessage], model: str = "") -> str:
    """The text that leading system messages are as the `instructions` of a turn.

    Raises:
        NotRepresentableError: One of them is not only text.
    """
    return "\n\n".join(_text(message, model) for message in messages)


def from_core(items: Sequence[Item]) -> ChatMessage:
    """The message that an answer's items, or one stored item, are; see `said_together`.

    An answer has its thinking first, then its text, then its tool calls; without calls it has a
    text even if that is empty, for engines would print a `content` that is `None`. Arguments that
    are no JSON object stay text, so that a call that was cut off is not run without any.
    """
    match items:
        case [FunctionOutput(call_id, output)]:
            called = {_TOOL_CALL_ID: call_id}
            return ChatMessage(output, role=MessageRole.TOOL, additional_kwargs=called)
        case [Message("user", content)]:
            paired = [(part, _block(part)) for part in content]
            homeless = tuple(part for part, block in paired if block is None)
            blocks = [block for _, block in paired if block is not None]
            return _message("user", blocks, content, _wires("user", homeless))
        case [Message("system" | "developer" as role, content)]:
            others = _wires(role, _beside_words(content))
            return _message(role, [TextBlock(text=items[0].text)], content, others)
    return _answer(items)


def copied(message: ChatMessage) -> ChatMessage:
    """A copy that is equal to the message and shares nothing with it that can be changed.

    Its `additional_kwargs` are a plain dict: what a subclass carries belongs to the original.

    Raises:
        UsageError: It holds what cannot be copied, such as an open file.
    """
    if type(message) is ChatMessage and all(type(block) is TextBlock for block in message.blocks):
        try:
            extra = {name: _json_copy(value) for name, value in message.additional_kwargs.items()}
        except _NotJsonError:
            pass
        else:
            return _with(
                message,
                additional_kwargs=extra,
                blocks=[block.model_copy() for block in message.blocks],
            )
    plain = message
    if type(message.additional_kwargs) is not dict:
        plain = _with(message, additional_kwargs=dict(message.additional_kwargs))
    try:
        return plain.model_copy(deep=True)
    except (TypeError, copy.Error) as wrong:
        raise UsageError(
            f"A {_role(message)} message holds what cannot be copied ({wrong}): give a file by its "
            "path or as bytes, and keep in additional_kwargs what could be written as JSON."
        ) from None


# --- From LlamaIndex --------------------------------------------------------------------------


def _text(message: ChatMessage, model: str) -> str:
    """All that a message says, which has to be in words (and, an assistant's, in tool calls)."""
    texts: list[str] = []
    answers = _ROLES.get(message.role) == "assistant"
    for block in message.blocks:
        words = _words(block)
        if words is not None:
            texts += words
        elif not (answers and isinstance(block, ToolCallBlock)):
            possible = "an answer is text and tool calls" if answers else "only text is sent there"
            raise _unplaced(_role(message), block, model, possible)
    return _joined(texts)


def _joined(texts: Sequence[str]) -> str:
    """The texts as `message.content` shows them, but none if all are empty."""
    return "\n".join(texts) if any(texts) else ""


def _words(block: BaseContentBlock) -> list[str] | None:
    """The texts that a block is, none for what is never sent; `None` if it is something else."""
    match block:
        case TextBlock():
            return [block.text]
        case ThinkingBlock() | CachePoint():
            return []
        case CitableBlock() | CitationBlock():
            nested = block.nested_blocks
            texts = [one.text for one in nested if isinstance(one, TextBlock)]
            return texts if len(texts) == len(nested) else None
    return None


def _parts(message: ChatMessage, model: str) -> Iterator[Part]:
    """What a user says, part by part."""
    for block in message.blocks:
        words = _words(block)
        if words is None:
            yield _medium(block, model)
        else:
            yield from map(Text, words)


_INSTEAD: dict[type[BaseContentBlock], str] = {
    VideoBlock: "give the video by its url",
    DocumentBlock: "give the document by its url, or its text in a TextBlock",
    CitableBlock: "of what can be cited, only text is sent",
    CitationBlock: "of what is cited, only text is sent",
    ToolCallBlock: "only an assistant's message calls tools",
}


def _medium(block: BaseContentBlock, model: str = "") -> Image | OtherPart:
    """A part of what a user shows. Forms: help.aliyun.com, "Responses API", read 2026-11-20."""
    match block:
        case ImageBlock() if block.url:
            return Image(str(block.url), block.detail or None)
        case ImageBlock():
            data = _data(block, block.resolve_image, model)
            # LlamaIndex guesses when a block is made, but not of a file, and `inline_url` would
            # say "data:None".
            kind = block.image_mimetype or ImageBlock(image=data).image_mimetype
            if not kind:
                raise _unplaced("user", block, model, "say what it is in its image_mimetype")
            return Image(f"data:{kind};base64,{b64encode(data).decode()}", block.detail or None)
        case AudioBlock() if block.url:
            return OtherPart({"type": "input_audio", "audio_url": str(block.url)})
        case AudioBlock():
            data = _data(block, block.resolve_audio, model)
            form = block.format or AudioBlock(audio=data).format
            if not form:
                raise _unplaced("user", block, model, "say what it is in its format")
            coded = b64encode(data).decode()
            return OtherPart({"type": "input_audio", "data": coded, "format": form})
        case VideoBlock() if block.url:
            rate = {} if block.fps is None else {"fps": block.fps}
            return OtherPart({"type": "input_video", "video_url": str(block.url), **rate})
        case DocumentBlock() if block.url:
            return OtherPart({"type": "input_file", "file_url": block.url})
    raise _unplaced(
        "user",
        block,
        model,
        _INSTEAD.get(type(block), "text, images, audio, and videos and documents by url are sent"),
    )


def _data(block: BaseContentBlock, resolve: Callable[[], Any], model: str) -> bytes:
    try:
        data = resolve().read()
    except (OSError, ValueError) as wrong:
        raise _unplaced("user", block, model, f"its data cannot be read ({wrong})") from None
    if isinstance(data, bytes):
        return data
    raise _unplaced("user", block, model, "open its file for reading bytes ('rb')")


def _told(message: ChatMessage, role: Role, parts: tuple[Part, ...]) -> Message:
    if kept := message.additional_kwargs.get(OUTPUT_ITEMS):
        kinds = ", ".join(repr(one.get("type")) for one in kept if isinstance(one, Mapping))
        raise NotRepresentableError(
            f"A {_role(message)} message holds what LlamaIndex has no block for ({kinds}): it can "
            f"be sent only without that, so take it out of additional_kwargs[{OUTPUT_ITEMS!r}]."
        )
    if all(part == Text("") for part in parts):
        raise NotRepresentableError(
            f"A {_role(message)} message is empty, and no conversation takes an empty message: "
            "leave it out, or say something in it."
        )
    return Message(role, parts)


def _answered_call(message: ChatMessage) -> str:
    call_id = message.additional_kwargs.get(_TOOL_CALL_ID)
    if isinstance(call_id, str) and call_id:
        return call_id
    raise NotRepresentableError(
        f"A {_role(message)} message does not say which call it is the result of: name the call "
        f"in additional_kwargs[{_TOOL_CALL_ID!r}]."
    )


def _calls(message: ChatMessage) -> Iterator[FunctionCall]:
    """The calls of an answer: its blocks, then what other LLMs left beside them."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    for block in blocks:
        yield _call(block.tool_call_id, block.tool_name, block.tool_kwargs)
    told = {block.tool_call_id for block in blocks}
    beside = message.additional_kwargs.get(_TOOL_CALLS) or ()
    for given in beside if isinstance(beside, list | tuple) else (beside,):
        # OpenAI's chat completions nest the function; its Responses API has both ids.
        function = _field(given, "function") or given
        call_id = _field(given, "call_id") or _field(given, "id")
        if not (isinstance(call_id, str) and call_id in told):
            yield _call(call_id, _field(function, "name"), _field(function, "arguments"))


def _field(given: object, name: str) -> Any:
    return given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)


def _call(call_id: object, name: object, arguments: object) -> FunctionCall:
    if not (isinstance(name, str) and name and isinstance(arguments, str | Mapping)):
        raise NotRepresentableError(
            "An assistant's tool call is in a form that is not known here: say it in a "
            "ToolCallBlock of its own."
        )
    if not (isinstance(call_id, str) and call_id):
        raise NotRepresentableError(
            f"The tool call of {name!r} has no id, and its result could not be told apart: give it "
            "one."
        )
    written = arguments if isinstance(arguments, str) else arguments_to_wire(arguments)
    return FunctionCall(call_id, name, written)


def _unplaced(role: str, block: object, model: str, possible: str) -> NotRepresentableError:
    kind = getattr(block, "block_type", type(block).__name__)
    return NotRepresentableError(
        f"A {role} message holds a {kind!r} block, which cannot be sent to {model or 'Qwen'}: "
        f"{possible}."
    )


def _role(message: ChatMessage) -> str:
    """The role as the user wrote it: LlamaIndex does not look at one that is assigned later."""
    role: object = message.role
    return role.value if isinstance(role, MessageRole) else str(role)


# --- To LlamaIndex ----------------------------------------------------------------------------


def _answer(items: Iterable[Item]) -> ChatMessage:
    thoughts: list[ContentBlock] = []
    calls: list[ContentBlock] = []
    said: list[Part] = []
    others: list[dict[str, Any]] = []
    for item in items:
        match item:
            case Message("assistant", content):
                said += content
                others += _wires("assistant", _beside_words(content))
            case FunctionCall(call_id, name, text):
                arguments = arguments_of(text)
                calls.append(
                    ToolCallBlock(
                        tool_call_id=call_id,
                        tool_name=name,
                        tool_kwargs=text if arguments is None else arguments,
                    )
                )
            case Reasoning(text):
                thoughts.append(ThinkingBlock(content=text))
            case _:  # A built-in tool's call, say: a model's own, though it is no message.
                others.append(to_wire(item))
    text = Message("assistant", tuple(said)).text
    words = [TextBlock(text=text)] if text or not calls else []
    return _message("assistant", [*thoughts, *words, *calls], said, others)


def _message(
    role: Role, blocks: list[ContentBlock], said: Iterable[Part], others: list[dict[str, Any]]
) -> ChatMessage:
    """The message of those blocks, and in its `additional_kwargs` what they do not show."""
    said = list(said)
    extra = {
        OUTPUT_ITEMS: others,
        "annotations": [
            dict(one) for part in said if isinstance(part, Text) for one in part.annotations
        ],
        "refusal": "".join(part.text for part in said if isinstance(part, Refusal)),
    }
    return ChatMessage(
        role=MessageRole(role),
        blocks=blocks,
        additional_kwargs={name: value for name, value in extra.items() if value},
    )


def _beside_words(content: Iterable[Part]) -> tuple[Part, ...]:
    return tuple(part for part in content if not isinstance(part, Text | Refusal))


def _wires(role: Role, parts: tuple[Part, ...]) -> list[dict[str, Any]]:
    """Parts that are not words, as they are on the wire."""
    wires: list[dict[str, Any]] = to_wire(Message(role, parts))["content"]
    return wires


def _block(part: Part) -> ContentBlock | None:
    """The block that a part is, the mirror of `_parts`; `None` if no block says it exactly."""
    match part:
        case Text(text) | Refusal(text):
            return TextBlock(text=text)
        case Image(url, detail):
            return _image(url, detail)
    try:
        block = _medium_block(part.wire)
    except ValueError:  # LlamaIndex checks what a block is made of
        return None
    return block if block is not None and _says(block, part) else None


def _medium_block(wire: Mapping[str, Any]) -> ContentBlock | None:
    match wire:
        case {"type": "input_audio", "audio_url": str(url)}:
            return _by_url(AudioBlock, url)
        case {"type": "input_audio", "data": str(data), "format": str(form)}:
            return AudioBlock(audio=data.encode(), format=form)
        case {"type": "input_video", "video_url": str(url)}:
            return _by_url(VideoBlock, url, fps=wire.get("fps"))
        case {"type": "input_file", "file_url": str(url)}:
            return DocumentBlock(url=url)
    return None


def _image(url: str, detail: str | None) -> ImageBlock:
    """The image, as bytes if its address holds them: not every LLM takes a data URI."""
    kind, found, data = url.removeprefix("data:").partition(";base64,")
    if url.startswith("data:") and found:
        coded = data.encode(errors="replace")
        block = ImageBlock(image=coded, image_mimetype=kind, detail=detail)
        if _says(block, Image(url, detail)):
            return block
    return _by_url(ImageBlock, url, detail=detail)


_Block = TypeVar("_Block", ImageBlock, AudioBlock, VideoBlock)


def _by_url(kind: type[_Block], url: str, **more: Any) -> _Block:
    """A block of exactly that address: LlamaIndex would make `https://a/` of `https://a`."""
    try:
        block = kind(url=url, **more)
    except ValueError:
        block = kind(**more)
    if str(block.url) != url:
        block.url = url
    return block


def _says(block: BaseContentBlock, part: Part) -> bool:
    try:
        return _medium(block) == part
    except NotRepresentableError:
        return False


# --- Copies -----------------------------------------------------------------------------------


class _NotJsonError(Exception):
    """A value is not what JSON is read as."""


_ATOMS = frozenset({str, int, float, bool, type(None)})


def _json_copy(value: Any) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return [_json_copy(one) for one in value]
    if kind is dict and all(type(name) is str for name in value):
        return {name: _json_copy(one) for name, one in value.items()}
    raise _NotJsonError


def _with(message: ChatMessage, **fields: Any) -> ChatMessage:
    """A shallow copy with other fields, which count as set only where the message's did."""
    changed = message.model_copy()
    changed.__dict__.update(fields)
    return changed

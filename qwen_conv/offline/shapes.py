"""What a request's body has to look like, said before anything of it is carried out.

What is not named here is ignored, as documented: "only the parameters listed here are processed"
(help.aliyun.com, "OpenAI compatible - Responses"; read 2026-11-20). Types are taken as they are:
"20" is no number.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic import ValidationError as Misfit

from qwen_conv.offline.refusals import HALF_A_CHARACTER, NOT_JSON, Refusal


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True)


class _Typed(_Shape):
    """Of a type that is not looked into."""

    type: str


_Id = Annotated[str, Field(min_length=1)]  # a conversation's, a call's: never empty
_FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


def _tag(value: Any, default: str, *known: str) -> str:
    kind = value.get("type", default) if isinstance(value, dict) else default
    return kind if kind in known else "other"


# --- Items ------------------------------------------------------------------------------------


class _Text(_Shape):
    text: str


class _Declined(_Shape):
    refusal: str


class _Image(_Shape):
    image_url: str


def _part_tag(part: Any) -> str:
    """A part's kind; a summary of reasoning is text, too."""
    kind = _tag(part, "", "input_text", "output_text", "text", "refusal", "input_image")
    return "text" if kind.endswith("text") else kind


_Part = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[_Declined, Tag("refusal")]
    | Annotated[_Image, Tag("input_image")]
    | Annotated[_Typed, Tag("other")],
    Discriminator(_part_tag),
]


def _in_parts(content: Any) -> Any:
    """A content in parts, as which a text is none if it is empty."""
    if not isinstance(content, str):
        return content
    return [{"type": "text", "text": content}] if content else []


class _Message(_Shape):
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[list[_Part], Field(min_length=1), BeforeValidator(_in_parts)]


class _FunctionCall(_Shape):
    call_id: _Id
    name: str
    arguments: str


class _FunctionOutput(_Shape):
    call_id: _Id
    output: str


class _Reasoning(_Shape):
    summary: list[_Text]


def _new_item_tag(item: Any) -> str:
    return _tag(item, "", "message")


def _input_item_tag(item: Any) -> str:
    """An input's kind: only there a message may come without its type."""
    return _tag(item, "message", "message", "function_call", "function_call_output", "reasoning")


_NewItem = Annotated[
    Annotated[_Message, Tag("message")] | Annotated[dict[str, Any], Tag("other")],
    Discriminator(_new_item_tag),
]
_InputItem = Annotated[
    Annotated[_Message, Tag("message")]
    | Annotated[_FunctionCall, Tag("function_call")]
    | Annotated[_FunctionOutput, Tag("function_call_output")]
    | Annotated[_Reasoning, Tag("reasoning")]
    | Annotated[_Typed, Tag("other")],
    Discriminator(_input_item_tag),
]


# --- Bodies -----------------------------------------------------------------------------------


class NewConversation(_Shape):
    """The body that creates a conversation."""

    items: list[_NewItem] | None = None
    metadata: dict[str, str] | None = None


class NewMetadata(_Shape):
    """The body that updates a conversation."""

    metadata: dict[str, str] | None


class NewItems(_Shape):
    """The body that adds items to a conversation."""

    items: Annotated[list[_NewItem], Field(min_length=1)]


def _flat(value: Any) -> Any:
    """Refuses a function as Chat Completions has it: one level deeper."""
    if isinstance(value, dict) and "function" in value:
        # The words of the service before the colon: refused tools, seen 2026-09-27.
        raise Refusal(
            "<400> InternalError.Algo.InvalidParameter: The parameters, when provided as a dict, "
            "must confirm to a valid openai-compatible JSON schema: name the function as "
            '{"type": "function", "name": ...}, without a "function" inside.'
        )
    return value


class _FunctionTool(_Shape):
    name: _FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None


def _tool_tag(tool: Any) -> str:
    return _tag(tool, "", "function")


_Tool = Annotated[
    Annotated[_FunctionTool, Tag("function")] | Annotated[_Typed, Tag("other")],
    Discriminator(_tool_tag),
    BeforeValidator(_flat),
]


class _AllowedTools(_Shape):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_Tool], Field(min_length=1)]


def _choice_tag(choice: Any) -> str:
    if isinstance(choice, str):
        return "word"
    return _tag(choice, "", "function", "allowed_tools")


_Choice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("word")]
    | Annotated[_FunctionTool, Tag("function")]
    | Annotated[_AllowedTools, Tag("allowed_tools")]
    | Annotated[_Typed, Tag("other")],
    Discriminator(_choice_tag),
    BeforeValidator(_flat),
]


class _Reason(_Shape):
    effort: str | None = None


class _Named(_Shape):
    id: _Id


def _by_id(conversation: Any) -> Any:
    return {"id": conversation} if isinstance(conversation, str) else conversation


def _in_items(given: Any) -> Any:
    """An input as items; whether there is any is asked later, in the service's words."""
    return [] if isinstance(given, str) else given


class NewResponse(_Shape):
    """The body of a turn; its model and `store` are checked later, in the service's words."""

    input: Annotated[list[_InputItem] | None, BeforeValidator(_in_items)] = None
    instructions: str | None = None
    conversation: Annotated[_Named | None, BeforeValidator(_by_id)] = None
    previous_response_id: _Id | None = None
    stream: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Choice | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    reasoning: _Reason | None = None


def checked(body: Any, shape: type[BaseModel]) -> dict[str, Any]:
    """The body, if it has the shape; it is not changed.

    Raises:
        Refusal: It has not.
    """
    try:
        shape.model_validate(body)
    except Misfit as misfit:
        first = misfit.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        says, _, _ = first["msg"].partition(" or instance of ")  # a class is our own business
        raise Refusal(f"Invalid '{place}': {says}.") from None
    told: dict[str, Any] = body
    return told


def parsed(raw: bytes) -> Any:
    """The body's JSON; `None` if there is no body.

    Raises:
        Refusal: It is no JSON, or nothing that could be said again: NaN, a number without end,
            half of a character.
    """
    try:
        body = json.loads(raw) if raw else None
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise HALF_A_CHARACTER from None
    except (ValueError, RecursionError):
        raise NOT_JSON from None
    return body

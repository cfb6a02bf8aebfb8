"""Tools, tool choice and the arguments of calls, as the Responses API has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen_conv.errors import NotRepresentableError, UsageError

BUILT_IN_TOOLS = frozenset(
    {
        "web_search",
        "web_extractor",
        "code_interpreter",
        "web_search_image",
        "image_search",
        "file_search",
        "mcp",
    }
)
"""Names that the service takes for its own tools (help.aliyun.com, "OpenAI compatible -
Responses", tools; read 2026-11-20): a function of the same name is mistaken for them."""


def written_tool(tool: Any) -> dict[str, Any] | None:
    """A tool that is written as it goes over the wire; `None` for one that has to be converted.

    Raises:
        UsageError: A function has the name of one of the service's own tools.
    """
    match tool:
        case {"type": kind} if kind in BUILT_IN_TOOLS:
            return dict(tool)
        case {"type": "function", "name": _}:
            return checked_function(tool)
    return None


def checked_function(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function as a tool in the flat form of the Responses API.

    Args:
        function: Its name, description, parameters and what else its framework says of it.

    Raises:
        UsageError: It has the name of one of the service's own tools.
    """
    if function["name"] in BUILT_IN_TOOLS:
        raise UsageError(
            f"A function named {function['name']!r} is mistaken for the service's own tool of that "
            "name: give it another."
        )
    return {"type": "function", **function}


def choice_to_wire(choice: str | dict[str, Any] | bool, tools: list[dict[str, Any]]) -> Any:
    """What the model may choose from, given the tools as they go over the wire.

    The service takes "required" for a single tool only, and a list of allowed ones otherwise
    (help.aliyun.com, "OpenAI compatible - Responses", tool_choice; read 2026-11-20).

    Raises:
        UsageError: The choice is none of the tools.
    """
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:  # as chat completions has it
            choice = name
        case dict() | "auto" | "none":
            return choice
    if choice in {True, "any", "required"}:
        chosen = tools
    else:
        chosen = [tool for tool in tools if tool.get("name", tool["type"]) == choice]
    if not chosen:
        names = (
            ", ".join(repr(tool.get("name", tool["type"])) for tool in tools) or "there are none"
        )
        raise UsageError(f"tool_choice is {choice!r}, which is none of the tools ({names}).")
    if len(tools) == 1:
        return "required"
    named = [
        {"type": "function", "name": tool["name"]} if "name" in tool else {"type": tool["type"]}
        for tool in chosen
    ]
    return {"type": "allowed_tools", "mode": "required", "tools": named}


def arguments_of(text: str) -> dict[str, Any] | None:
    """The arguments of a call; `None` if the text is not a JSON object, or was cut off.

    What is no JSON although Python reads it (`NaN`, `1e999`) counts as none: nothing could write
    it again.
    """
    try:
        arguments = json.loads(text or "{}", parse_constant=_refuse_constant)
        json.dumps(arguments, allow_nan=False)
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def arguments_to_wire(arguments: Mapping[str, Any]) -> str:
    """The arguments of a call as JSON text; the mirror of `arguments_of`.

    Raises:
        NotRepresentableError: They cannot be written as JSON.
    """
    try:
        return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as wrong:
        raise NotRepresentableError(
            f"A tool call's arguments cannot be written as JSON: {wrong}"
        ) from None

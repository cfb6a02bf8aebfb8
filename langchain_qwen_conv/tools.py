"""Tools and tool choice, as the Responses API takes them."""

from __future__ import annotations

from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from qwen_conv.errors import UsageError

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


def tool_to_wire(tool: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """A tool in the flat form of the Responses API; one of the service's own as it is.

    Raises:
        UsageError: A function has the name of one of the service's own tools.
    """
    match tool:
        case {"type": kind} if kind in BUILT_IN_TOOLS:
            return dict(tool)
        case {"type": "function", "name": _}:
            flat = dict(tool)
        case _:
            flat = {"type": "function", **convert_to_openai_tool(tool, strict=strict)["function"]}
    if flat["name"] in BUILT_IN_TOOLS:
        raise UsageError(
            f"A function named {flat['name']!r} is mistaken for the service's own tool of that "
            "name: give it another."
        )
    return flat


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

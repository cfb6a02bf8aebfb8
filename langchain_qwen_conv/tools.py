"""LangChain's tools, as the Responses API takes them."""

from __future__ import annotations

from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from qwen_conv.tools import checked_function, written_tool


def tool_to_wire(tool: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """A tool in the flat form of the Responses API; one of the service's own as it is.

    Raises:
        UsageError: A function has the name of one of the service's own tools.
    """
    return written_tool(tool) or checked_function(
        convert_to_openai_tool(tool, strict=strict)["function"]
    )

"""LlamaIndex's tools as the Responses API takes them, and the calls that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ToolCallBlock

from qwen_conv.errors import Failure, ServiceFailedError, UsageError
from qwen_conv.tools import arguments_of, checked_function, written_tool

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool


def tool_to_wire(tool: BaseTool | dict[str, Any]) -> dict[str, Any]:
    """A tool in the flat form of the Responses API, whether it is LlamaIndex's or written so.

    Raises:
        UsageError: A function has the name of one of the service's own tools, or it is no tool.
    """
    if isinstance(tool, dict):
        written = written_tool(tool)
        if written is None:
            raise UsageError(
                f"A tool of type {tool.get('type')!r} is in a form that the service does not take: "
                'pass one of LlamaIndex\'s tools, {"type": "function", "name": ..., "parameters": '
                '...}, or one of the service\'s own, as {"type": "web_search"}.'
            )
        return written
    return checked_function(tool.metadata.to_openai_tool(skip_length_check=True)["function"])


def arguments_of_call(block: ToolCallBlock) -> dict[str, Any]:
    """The arguments that a tool is to be called with.

    Raises:
        ServiceFailedError: They were cut, or are no JSON object.
    """
    given = block.tool_kwargs
    arguments = arguments_of(given) if isinstance(given, str) else given
    if arguments is None:
        raise ServiceFailedError(
            Failure(
                f"The model's call of {block.tool_name!r} has arguments that are no JSON object, "
                "or were cut: it is not run"
            )
        )
    return arguments

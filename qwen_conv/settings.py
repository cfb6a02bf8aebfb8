"""The parameters of a turn that are neither its messages nor its place, under their wire names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwen_conv.limits import checked_thinking
from qwen_conv.tools import choice_to_wire


def settings_to_wire(
    *bodies: Mapping[str, Any] | None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    reasoning_effort: str | None = None,
    enable_thinking: bool | None = None,
    tools: Sequence[dict[str, Any]] = (),
    tool_choice: Any = None,
    parallel_tool_calls: bool | None = None,
) -> dict[str, Any]:
    """The parameters; those that are not set are left out, as the service refuses some nulls.

    Args:
        *bodies: Further parameters as they go over the wire; the later ones win.
        temperature: 0 <= temperature < 2.
        top_p: 0 < top_p <= 1.
        max_tokens: 16 or more.
        reasoning_effort: One of `qwen_conv.limits.REASONING_EFFORTS`.
        enable_thinking: Whether to think.
        tools: Tools in the flat form of the Responses API.
        tool_choice: See `qwen_conv.tools.choice_to_wire`.
        parallel_tool_calls: Passed on; the service takes no notice of it.

    Raises:
        UsageError: The choice is none of the tools, or how to think is none of the ways.
            `checked_sampling` looks at the numbers.
    """
    checked_thinking(effort=reasoning_effort, enabled=enable_thinking)
    choice = choice_to_wire(tool_choice, [*tools]) if tool_choice and tools else tool_choice
    settings = {
        "temperature": temperature,
        "top_p": top_p,
        "max_output_tokens": max_tokens,
        "reasoning": {"effort": reasoning_effort} if reasoning_effort else None,
        "enable_thinking": enable_thinking,
        "tools": [*tools] or None,
        "tool_choice": choice,
        "parallel_tool_calls": parallel_tool_calls,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    for body in bodies:
        settings |= body or {}
    return settings

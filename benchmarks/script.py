"""A model of a few lines for the offline server, which has engines and agents do all they can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from qwen_conv.offline import CallTool
from qwen_conv.offline.responder import Answer, text_of

Json = Mapping[str, Any]


def scripted(context: Sequence[Json], request: Json) -> Answer:
    """An answer that depends on the last question alone, not on where the rest comes from.

    Asked for the weather, it hands on where it can, and calls the tool where it has it, in the
    words of ReAct where the prompt is of that kind.
    """
    question = next((text_of(one) for one in reversed(context) if one.get("role") == "user"), "")
    mark = blake2b(question.encode(), digest_size=3).hexdigest()
    prompt = " ".join(text_of(one) for one in context if one.get("role") == "system")
    if "Action Input" in prompt:
        if "weather" in question and "Observation" not in question:
            return 'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Rome"}'
        return f"Thought: I can answer.\nAnswer: {mark} is the answer."
    tools = {tool["name"] for tool in request.get("tools") or ()}
    result = context[-1].get("output")
    if "weather" not in question or not tools & {"handoff", "weather"}:
        return f"The answer is {mark}."
    if "handoff" in tools and result is None:
        arguments = {"to_agent": "knowing", "reason": "weather"}
        return ["Handing on.", CallTool("handoff", arguments, f"call_hand_{mark}")]
    if "weather" in tools and (result is None or "sunny" not in result):
        return ["One moment.", CallTool("weather", {"city": "Rome"}, f"call_{mark}")]
    return f"{result} ({mark})"

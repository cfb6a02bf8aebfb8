"""An answer's content as LangChain's standard blocks.

LangChain makes most of them itself of any message: text, reasoning and tool calls. What it cannot
know is where ours have the items of the service's own tools (`additional_kwargs["output_items"]`)
and what an answer cites (`additional_kwargs["annotations"]`). An item for which there is no
standard block is a non-standard one, as it came.

Forms of the items: help.aliyun.com, "OpenAI compatible - Responses", output; read 2026-11-20.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import ContentBlock

from langchain_qwen_conv.profiles import PROVIDER
from qwen_conv.tools import BUILT_IN_TOOLS

_RESULTS = ("output", "outputs", "result", "results", "error")
"""Fields of a built-in tool's item that tell what it found; what else there is, it was asked."""

_OF_THE_ITEM = ("id", "type", "status", "name")


def blocks_of(message: AIMessage) -> list[ContentBlock]:
    """The standard blocks of an answer.

    Raises:
        NotImplementedError: LangChain makes them all by itself.
    """
    items = message.additional_kwargs.get("output_items", ())
    citations = message.additional_kwargs.get("annotations", ())
    if not (items or citations):
        raise NotImplementedError
    said = _by_langchain(message)
    thoughts = [block for block in said if block["type"] == "reasoning"]
    rest = [block for block in said if block["type"] != "reasoning"]
    found = [block for item in items for block in _blocks_of_item(item)]
    cited = {"annotations": [_citation(one) for one in citations]} if citations else {}
    texts = [block for block in rest if block["type"] == "text"]
    for block in texts:
        block.update(cited)
    if cited and not texts:  # the last piece of a stream: it goes on with the text before it
        return cast("list[ContentBlock]", [{"type": "text", "text": "", **cited}, *found, *rest])
    return cast("list[ContentBlock]", [*thoughts, *found, *rest])


def blocks_of_chunk(message: AIMessageChunk) -> list[ContentBlock]:
    """The standard blocks of a piece of an answer.

    LangChain gives every block of a stream a number, but for pieces of calls, which have theirs
    already: these must not be taken for one another.

    Raises:
        NotImplementedError: LangChain makes them all by itself.
    """
    try:
        blocks = blocks_of(message)
    except NotImplementedError:
        if not message.tool_call_chunks:
            raise
        blocks = cast("list[ContentBlock]", _by_langchain(message))
    for block in blocks:
        if block["type"] == "tool_call_chunk" and isinstance(block.get("index"), int):
            block["index"] = f"lc_call_{block['index']}"
    return blocks


def _by_langchain(message: AIMessage) -> list[Any]:
    """The blocks that LangChain makes of any provider's message."""
    told_by_nobody = message.model_copy(update={"response_metadata": {}})
    blocks: list[Any] = told_by_nobody.content_blocks
    return blocks


def _blocks_of_item(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    name = str(item.get("type", "")).removesuffix("_call")
    if name not in BUILT_IN_TOOLS or name == item.get("type"):
        yield {"type": "non_standard", "value": dict(item)}
        return
    asked = {key: value for key, value in item.items() if key not in (*_OF_THE_ITEM, *_RESULTS)}
    results = {key: item[key] for key in _RESULTS if item.get(key) is not None}
    call_id = str(item.get("id", ""))
    yield {
        "type": "server_tool_call",
        "id": call_id,
        "name": str(item.get("name") or name),
        "args": asked,
    }
    result: dict[str, Any] = {
        "type": "server_tool_result",
        "tool_call_id": call_id,
        "status": "success" if item.get("status", "completed") == "completed" else "error",
    }
    yield result | ({"output": results} if results else {})


def _citation(annotation: Mapping[str, Any]) -> dict[str, Any]:
    if annotation.get("type") != "url_citation":
        return {"type": "non_standard_annotation", "value": dict(annotation)}
    known = ("url", "title", "start_index", "end_index")
    return {"type": "citation", **{key: annotation[key] for key in known if key in annotation}}


register_translator(PROVIDER, blocks_of, blocks_of_chunk)

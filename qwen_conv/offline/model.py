"""The offline server's turns: what the model is shown, what it answers, and how that streams."""

from __future__ import annotations

import inspect
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwen_conv.limits import (
    OUTPUT_TOKENS_LEAST,
    REASONING_EFFORTS,
    TEMPERATURE_BELOW,
    TOP_P_MOST,
)
from qwen_conv.offline.refusals import Refusal
from qwen_conv.offline.responder import (
    CallTool,
    Fail,
    Json,
    Piece,
    Say,
    Script,
    Think,
    UseTool,
    pieces_of,
)
from qwen_conv.offline.switches import Switches

_FAMILIES = ("qwen", "qwq", "qvq", "deepseek", "glm", "kimi")


def checked_request(body: Json) -> None:
    """Refuses what the service was seen to refuse, in its words (2026-09-27).

    The types are right already (`qwen_conv.offline.shapes`).
    """
    model = body.get("model")
    if not isinstance(model, str) or not model.startswith(_FAMILIES):
        raise Refusal(f"Unsupported model: '{model}'")
    if not body.get("input"):
        raise Refusal("The input is empty.")
    if body.get("store") is not None and not isinstance(body["store"], bool):
        raise Refusal(f"Invalid 'store': {body['store']}. Must be a boolean.")
    temperature, top_p = body.get("temperature"), body.get("top_p")
    if temperature is not None and not 0 <= temperature < TEMPERATURE_BELOW:
        raise Refusal(
            f"Invalid 'temperature': {temperature}. Expected a value between "
            f"[0,{TEMPERATURE_BELOW:g}), but got {temperature} instead."
        )
    if top_p is not None and not 0 < top_p <= TOP_P_MOST:
        raise Refusal(
            f"Invalid 'top_p': {top_p}. Expected a value between (0,{TOP_P_MOST:g}], but got "
            f"{top_p} instead."
        )
    most = body.get("max_output_tokens")
    if most is not None and most < OUTPUT_TOKENS_LEAST:
        raise Refusal(
            "Invalid 'max_output_tokens': must be greater than or equal to "
            f"{OUTPUT_TOKENS_LEAST}, got {most}."
        )
    effort = (body.get("reasoning") or {}).get("effort")
    if effort is not None and effort not in REASONING_EFFORTS:
        raise Refusal(
            f"Invalid 'reasoning.effort': {effort}. Supported values are: {REASONING_EFFORTS}."
        )
    if body.get("tool_choice") == "required" and len(body.get("tools") or ()) != 1:
        # help.aliyun.com, "OpenAI compatible - Responses", tool_choice; read 2026-11-20.
        raise Refusal("Invalid 'tool_choice': 'required' is taken with exactly one tool only.")


def input_items(given: Any) -> list[dict[str, Any]]:
    """The input as items."""
    if isinstance(given, str):
        return [message("user", given)]
    items = []
    for one in given:
        if one.get("type", "message") == "message":
            items.append(message(one["role"], one["content"]))
        else:
            items.append({key: value for key, value in one.items() if key != "id"})
    return items


def message(role: str, content: Any) -> dict[str, Any]:
    """A message as it is stored: its content in parts."""
    if isinstance(content, str):
        kind = "output_text" if role == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    return {"type": "message", "role": role, "status": "completed", "content": content}


def checked_pairs(held: Sequence[Json], given: Sequence[Json], switches: Switches) -> None:
    """Refuses tool calls and results that do not fit together, as the switches say."""
    called = {one["call_id"] for one in held if one.get("type") == "function_call"}
    resent = {one["call_id"] for one in given if one.get("type") == "function_call"}
    answered = {
        one["call_id"] for one in (*held, *given) if one.get("type") == "function_call_output"
    }
    if switches.lone_output == "pair_refused" and called & resent:
        raise Refusal(f"Duplicate item found with call_id {min(called & resent)}.")
    for index, one in enumerate(given):
        if one.get("type") != "function_call_output":
            continue
        before = given[index - 1] if index else {}
        paired = before.get("call_id") == one["call_id"]
        if one["call_id"] not in called | resent or (
            switches.lone_output == "pair_required" and not paired
        ):
            raise Refusal(
                f"No tool call found for function call output with call_id {one['call_id']}."
            )
    open_calls = (called | resent) - answered
    if switches.unanswered_call == "refused" and open_calls:
        raise Refusal(f"No tool output found for function call {min(open_calls)}.")


async def answer_of(script: Script, context: Sequence[Json], body: Json) -> tuple[Piece, ...]:
    """What the script answers."""
    told = script(context, body)
    if inspect.isawaitable(told):
        told = await told
    return pieces_of(told)


def cut(pieces: Sequence[Piece], most: int | None) -> tuple[tuple[Piece, ...], bool]:
    """The pieces up to so many words, and whether anything is missing."""
    left = most
    kept: list[Piece] = []
    for piece in pieces:
        if left is None or not isinstance(piece, Say):
            kept.append(piece)
            continue
        words = re.findall(r"\s*\S+", piece.text)
        if len(words) > left:
            return (*kept, Say("".join(words[:left]), piece.annotations)), True
        left -= len(words)
        kept.append(piece)
    return tuple(kept), False


def output_items(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """The pieces of an answer as items. Every id is `msg_` and a UUID, as the service's are."""
    items: list[dict[str, Any]] = []
    for piece in pieces:
        item_id = new_item_id()
        match piece:
            case Think(text):
                summary = [{"type": "summary_text", "text": text}]
                items.append({"type": "reasoning", "id": item_id, "summary": summary})
            case Say(text, annotations):
                part = {"type": "output_text", "text": text, "annotations": [*annotations]}
                items.append({**message("assistant", [part]), "id": item_id})
            case CallTool(name, arguments, call_id):
                written = arguments if isinstance(arguments, str) else json.dumps(arguments)
                items.append(
                    {
                        "type": "function_call",
                        "id": item_id,
                        "call_id": call_id or f"call_{uuid.uuid4().hex[:24]}",
                        "name": name,
                        "arguments": written,
                        "status": "completed",
                    }
                )
            case UseTool(item):
                items.append({**item, "id": item_id})
    return items


def new_item_id() -> str:
    """A new item's id."""
    return f"msg_{uuid.uuid4()}"


def usage(context: Sequence[Json], output: Sequence[Json], switches: Switches) -> dict[str, Any]:
    """What the turn cost: a token is a word here."""
    sent, got = sum(map(_words, context)), sum(map(_words, output))
    totals = {"input_tokens": sent, "output_tokens": got, "total_tokens": sent + got}
    if switches.usage_details == "no":
        return totals
    thought = sum(_words(one) for one in output if one["type"] == "reasoning")
    return {
        **totals,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": thought},
    }


def _words(item: Json) -> int:
    """How many words an item has; those of a type that is not looked into are not counted."""
    match item:
        case {"type": "message", "content": parts} | {"type": "reasoning", "summary": parts}:
            texts = [part.get("text", "") for part in parts]
        case {"type": "function_call", "name": name, "arguments": arguments}:
            texts = [name, arguments]
        case {"type": "function_call_output", "output": output}:
            texts = [output]
        case _:
            texts = []
    return sum(len(text.split()) for text in texts if isinstance(text, str))


def events(response: Json, switches: Switches, failure: Fail | None) -> Iterator[dict[str, Any]]:
    """The events of a stream. `response` is the final one; with `failure` it fails on the way."""
    opened = {**response, "output": [], "status": "queued", "model": ""}
    opened.pop("usage", None)
    yield {"type": "response.created", "response": opened}
    yield {
        "type": "response.in_progress",
        "response": {**opened, "status": "in_progress", "model": response["model"]},
    }
    sent = 0
    for index, item in enumerate(response["output"]):
        for event in _item_events(index, item, switches):
            if failure is not None and sent == failure.after:
                break
            sent += event["type"].endswith("_text.delta")
            yield event
    if failure is not None:
        error = {"code": failure.code, "message": failure.message}
        failed = {**opened, "status": "failed", "model": response["model"], "error": error}
        yield {"type": "response.failed", "response": failed}
        return
    final = dict(response)
    if switches.final_output == "missing":
        del final["output"]
    yield {"type": f"response.{response['status']}", "response": final}


def _item_events(index: int, item: Json, switches: Switches) -> Iterator[dict[str, Any]]:
    at = {"output_index": index, "item_id": item["id"]}
    added, done = "response.output_item.added", "response.output_item.done"
    match item["type"]:
        case "message":
            begun = {**item, "content": [], "status": "in_progress"}
            yield {"type": added, "output_index": index, "item": begun}
            (part,) = item["content"]
            place = {**at, "content_index": 0}
            empty = {**part, "text": ""}
            yield {"type": "response.content_part.added", **place, "part": empty}
            for piece in re.findall(r"\s*\S+|\s+$", part["text"]):
                yield {
                    "type": "response.output_text.delta",
                    **place,
                    "delta": piece,
                    "logprobs": [],
                }
            yield {"type": "response.output_text.done", **place, "text": part["text"]}
            yield {"type": "response.content_part.done", **place, "part": part}
            yield {"type": done, "output_index": index, "item": item}
        case "reasoning":
            yield {"type": added, "output_index": index, "item": {**item, "summary": []}}
            text = item["summary"][0]["text"]
            for piece in re.findall(r"\s*\S+|\s+$", text):
                yield {"type": "response.reasoning_text.delta", **at, "delta": piece}
            yield {"type": "response.reasoning_text.done", **at, "text": text}
            yield {"type": done, "output_index": index, "item": item}
        case "function_call":
            yield from _call_events(at, item, switches)
        case _:
            yield {"type": added, "output_index": index, "item": {**item, "status": "in_progress"}}
            yield {"type": done, "output_index": index, "item": item}


def _call_events(at: Mapping[str, Any], item: Json, switches: Switches) -> Iterator[dict[str, Any]]:
    if switches.call_arguments == "response":
        return
    index = {"output_index": at["output_index"]}
    yield {
        "type": "response.output_item.added",
        **index,
        "item": {**item, "arguments": "", "status": "in_progress"},
    }
    written = item["arguments"]
    if switches.call_arguments == "deltas":
        for start in range(0, len(written), 7):
            yield {
                "type": "response.function_call_arguments.delta",
                **at,
                "delta": written[start : start + 7],
            }
    if switches.call_arguments in {"deltas", "done"}:
        yield {"type": "response.function_call_arguments.done", **at, "arguments": written}
    yield {"type": "response.output_item.done", **index, "item": item}

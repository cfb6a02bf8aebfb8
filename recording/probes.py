"""What the service shows of each assumption about it: one probe for each switch.

A probe asks what any model's answer will do for. It tells the value that it saw, or `None` where
what it saw does not say, and never guesses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier
from time import monotonic
from typing import Any, NamedTuple

from qwen_conv.errors import (
    ConversationLockedError,
    KeyRefusedError,
    NotFoundError,
    PermissionRefusedError,
    RequestRefusedError,
    ServiceError,
)
from qwen_conv.items import FunctionOutput, Json, to_wire
from qwen_conv.limits import OUTPUT_TOKENS_LEAST
from recording.probes_service import (
    COUNT,
    INSTRUCTIONS,
    NO_MODEL,
    NOTE,
    QUESTION,
    UUID,
    Called,
    Service,
    UnsettledError,
    failed,
    has_answer,
    has_call,
    message,
    other,
    shape,
    text_of,
)

UNSETTLEABLE: Mapping[str, str] = {
    "expired_items": "items expire after seven days, which no run waits for",
}
"""The switches that no single run can settle, and why."""


class Seen(NamedTuple):
    """The value that a probe saw, if it saw one, and what it saw it by."""

    found: str | None
    evidence: str


# --- What a plain turn shows ------------------------------------------------------------------


def probe_response_ids(service: Service) -> Seen:
    """Looks at the id of a response."""
    found = str(service.plain.response["id"])
    value = "uuid" if re.fullmatch(UUID, found) else "resp" if found.startswith("resp_") else None
    return Seen(value, f"a response's id is {shape(found)}")


def probe_output_ids(service: Service) -> Seen:
    """Compares the id of an answer with those that the conversation lists."""
    given = {one["id"] for one in service.plain.response["output"] if one["type"] == "message"}
    listed = {item["id"] for item in service.plain_listed if has_answer([item])}
    value = "kept" if given and given <= listed else "new" if not given & listed else None
    return Seen(
        value if given else None,
        f"answered as {shape(' '.join(given))}, listed as {shape(' '.join(listed))}, "
        f"{len(given & listed)} of {len(given)} the same",
    )


def probe_conversation_echo(service: Service) -> Seen:
    """Looks for the conversation in a response."""
    echo = service.plain.response.get("conversation")
    if not echo:
        return Seen("no", "a turn's response names no conversation")
    named = echo.get("id") if isinstance(echo, Mapping) else echo
    same = named == service.plain.conversation
    form = type(echo).__name__
    return Seen(
        "yes" if same else None,
        f"a turn's response names {'its' if same else 'another'} conversation, as a {form}",
    )


def probe_listed_content(service: Service) -> Seen:
    """Looks at the form of the contents that a conversation lists."""
    forms = {
        "parts" if isinstance(item["content"], list) else "text"
        for item in service.plain_listed
        if item.get("type") == "message"
    }
    return Seen(_one_of(forms), f"contents are listed as {' and '.join(sorted(forms))}")


def probe_instructions(service: Service) -> Seen:
    """Looks for the instructions of a turn among the items that it left."""
    stored = any(
        INSTRUCTIONS in text_of(item) for item in service.plain_listed if not has_answer([item])
    )
    return Seen(
        "stored" if stored else "not_stored",
        f"a turn with instructions left {_roles(service.plain_listed)}",
    )


def probe_usage_details(service: Service) -> Seen:
    """Looks for cached and reasoning tokens in a response."""
    usage = service.plain.response["usage"]
    paths = {
        "input_tokens_details": "cached_tokens",
        "output_tokens_details": "reasoning_tokens",
    }
    there = [count in (usage.get(details) or {}) for details, count in paths.items()]
    value = "yes" if all(there) else None if any(there) else "no"
    return Seen(value, f"usage has {', '.join(usage)}")


# --- What is kept -----------------------------------------------------------------------------


def probe_stored_items(service: Service) -> Seen:
    """Compares what a turn with a function call came to with what its conversation lists."""
    called, listed = service.tool_use
    if not listed:
        raise UnsettledError(f"the turn was not listed within {service.patience:g} s")
    kinds = {str(item.get("type")) for item in listed}
    only_messages = kinds == {"message"}
    value = "all" if kinds >= {*called.output} else "messages" if only_messages else None
    return Seen(
        value, f"a turn's output was {', '.join(called.output)}; listed: {', '.join(sorted(kinds))}"
    )


def probe_system_role(service: Service) -> Seen:
    """Creates a system message, and lists it."""
    conversation = service.conversation(message("system", INSTRUCTIONS))
    role = _first(service.listed(conversation, bool)).get("role")
    value = {"system": "kept", "user": "user"}.get(str(role))
    return Seen(value, f"a message created as system is listed as {role}")


def probe_other_items(service: Service) -> Seen:
    """Creates a function call as an item, where a message was created before."""
    conversation = service.conversation(message("user", QUESTION))
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    if refused := service.refusal(service.add, conversation, call):
        return Seen("refused", f"creating a function_call: {service.told(refused)}")
    listed = service.listed(conversation, has_call)
    found = "accepted" if has_call(listed) else "dropped" if len(listed) == 1 else None
    return Seen(found, f"creating a function_call behind a message {_left(service, listed)}")


def probe_store_false(service: Service) -> Seen:
    """Takes a turn with `store: false` in a conversation."""
    conversation = service.conversation()
    service.turn(conversation=conversation, store=False)
    listed = service.listed(conversation, has_answer)
    found = "appended" if has_answer(listed) else None if listed else "not_appended"
    return Seen(found, f"a turn with store: false {_left(service, listed)}")


def probe_expired_items(_service: Service) -> Seen:
    """Asks nothing."""
    return Seen(None, UNSETTLEABLE["expired_items"])


# --- What is not there, and errors ------------------------------------------------------------


def probe_unknown_conversation(service: Service) -> Seen:
    """Takes a turn on a conversation that is not there, where one that is there worked."""
    unknown = other(service.plain.conversation)
    refused = service.refusal(
        service.turn, conversation=unknown, max_output_tokens=OUTPUT_TOKENS_LEAST
    )
    return Seen(
        "ignored" if refused is None else "refused",
        f"a turn on {shape(unknown)}: {service.told(refused)}",
    )


def probe_unknown_after(service: Service) -> Seen:
    """Lists what is behind an item that is not there."""
    conversation = service.conversation(message("user", QUESTION))
    known = _first(service.listed(conversation, bool))["id"]
    listed: list[Json] = []
    refused = service.refusal(lambda: listed.extend(service.page(conversation, after=other(known))))
    evidence = (
        f"a list of 1 item behind an unknown one: {service.told(refused)}, {len(listed)} item(s)"
    )
    return Seen("refused" if refused else "ignored" if listed else None, evidence)


def probe_error_envelope(service: Service) -> Seen:
    """Looks at the bodies of several refusals."""
    refusals = {
        **service.missing,
        "model": service.refusal(service.turn, model=NO_MODEL, store=False),
    }
    forms = {what: _envelope(refused) for what, refused in refusals.items() if refused}
    return Seen(
        _one_of(set(forms.values())),
        "unknown " + ", ".join(f"{what}: {form}" for what, form in forms.items()),
    )


def _envelope(refused: ServiceError) -> str | None:
    body = json.loads(_http(refused).text)
    if isinstance(body.get("error"), Mapping):
        return "nested"
    return "flat" if "message" in body else None


def _http(error: ServiceError) -> Any:
    """The answer over HTTP that an error stands for; `None` if a stream brought the error."""
    return getattr(error.__cause__, "response", None)


def probe_missing_status(service: Service) -> Seen:
    """Looks at the statuses of what is not there."""
    statuses = {
        what: str(refused.status) if refused else "200" for what, refused in service.missing.items()
    }
    found = _one_of(set(statuses.values()))
    return Seen(
        found if found in {"404", "400"} else None,
        "unknown " + ", ".join(f"{what}: {status}" for what, status in statuses.items()),
    )


def probe_stream_errors(service: Service) -> Seen:
    """Asks an unknown model for a stream."""
    asked = "a stream of an unknown model"
    try:
        events = [*service.events(model=NO_MODEL, store=False)]
    except (RequestRefusedError, NotFoundError) as error:
        return Seen("status" if _http(error) else None, f"{asked}: {service.told(error)}")
    for event in events:
        if refused := failed(event):
            kind = event.get("type")
            return Seen(
                "event" if kind else None, f"{asked}: HTTP 200, {kind}: {service.told(refused)}"
            )
    raise UnsettledError(f"{asked} was not refused")


def probe_failed_turn(service: Service) -> Seen:
    """Takes turns that may fail once they have begun, until one does."""
    looked = []
    for way, body in _FAILING.items():
        conversation = service.conversation()
        begun, error = _failure(service, {"conversation": conversation, **body})
        came = f"{way}: {'begun, then ' if begun else ''}{service.told(error)}"
        if begun and error:
            listed = service.listed(conversation, bool)
            return Seen(
                "input_stored" if listed else "not_stored",
                f"{came}; it {_left(service, listed)}",
            )
        looked.append(came)
    raise UnsettledError("no turn failed after it had begun (" + "; ".join(looked) + ")")


_FAILING: Mapping[str, Json] = {
    "a picture that cannot be fetched": {
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is in the picture?"},
                    # RFC 2606: no such name will ever be found
                    {"type": "input_image", "image_url": "https://pictures.invalid/one.png"},
                ],
            }
        ]
    },
    # Refused in the name of the model's own backend, that is, not at the door (2026-09-27).
    "a function in the form of Chat Completions": {
        "tools": [
            {
                "type": "function",
                "function": {"name": NOTE["name"], "parameters": NOTE["parameters"]},
            }
        ]
    },
}


def _failure(service: Service, body: Json) -> tuple[bool, ServiceError | None]:
    """Whether a turn had begun, and the error it came to."""
    begun = False
    try:
        for event in service.events(**body):
            if error := failed(event):
                return begun, error
            begun = begun or event.get("type") in {"response.created", "response.in_progress"}
    except (KeyRefusedError, PermissionRefusedError):
        raise
    except ServiceError as error:
        return begun, error
    return begun, None


# --- Streams ----------------------------------------------------------------------------------


def probe_final_output(service: Service) -> Seen:
    """Looks at the last event of a stream."""
    events, _ = service.whole(store=False)
    last = events[-1]
    if last["type"] not in {"response.completed", "response.incomplete"}:
        raise UnsettledError(f"the stream ended with {last['type']}")
    output = last["response"].get("output")
    return Seen(
        "whole" if output else "missing",
        f"the last event, {last['type']}, has {len(output or ())} item(s) of output",
    )


def probe_call_arguments(service: Service) -> Seen:
    """Looks for the first event of a stream that brings a call's arguments."""
    called, _ = service.tool_use
    found = next((value for event in called.events if (value := _brought_by(event))), None)
    kinds = [str(event.get("type")).removeprefix("response.") for event in called.events]
    return Seen(found, f"the stream of a call had {', '.join(dict.fromkeys(kinds))}")


def _brought_by(event: Json) -> str | None:
    match event:
        case {"type": "response.function_call_arguments.delta", "delta": str(text)} if text:
            return "deltas"
        case {"type": "response.function_call_arguments.done", "arguments": str(text)} if text:
            return "done"
        case {
            "type": "response.output_item.done",
            "item": {"type": "function_call", "arguments": str(text)},
        } if text:
            return "item"
        case {"response": {"output": list(output)}} if has_call(output):
            return "response"
    return None


def probe_cut_stream(service: Service) -> Seen:
    """Closes a stream at the first piece of its text, and looks whether the turn is kept.

    An answer that is whole by then is kept in any case, so a long one is asked for.
    """
    conversation = service.conversation()
    with closing(service.events(conversation=conversation, input=COUNT)) as events:
        if not any(event.get("type") == "response.output_text.delta" for event in events):
            raise UnsettledError("the stream brought no text to cut it at")
    closed = monotonic()
    listed = service.listed(conversation, has_answer)
    found = "stored" if has_answer(listed) else None if listed else "not_stored"
    return Seen(
        found,
        f"a stream was closed at the first piece of its text; {monotonic() - closed:.1f} s later "
        f"it had left {_roles(listed)}",
    )


# --- Two turns, and calls ---------------------------------------------------------------------


def probe_concurrent_turns(service: Service) -> Seen:
    """Takes two turns at once, each long enough to meet the other."""
    conversation, gate = service.conversation(), Barrier(2)

    def take(_number: int) -> tuple[float, ServiceError | None]:
        gate.wait()
        began = monotonic()
        try:
            service.turn(conversation=conversation, input=COUNT)
        except (ConversationLockedError, RequestRefusedError) as error:
            return monotonic() - began, error
        return monotonic() - began, None

    fastest = service.fastest
    with ThreadPoolExecutor(2) as threads:
        taken = [*threads.map(take, range(2))]
    came = " and ".join(f"{service.told(error)} after {seconds:.1f} s" for seconds, error in taken)
    listed = service.page(conversation)
    evidence = f"two turns at once: {came}; they left {_roles(listed)}"
    refused = sum(error is not None for _, error in taken)
    if refused == 1:
        return Seen("locked", evidence)
    # The second may need a connection of its own, which takes some ways there and back.
    met = min(seconds for seconds, _ in taken) > 5 * fastest
    if refused or not met:
        raise UnsettledError(f"{evidence}; it is not sure that they met")
    return Seen("serialized", evidence)


def probe_lone_output(service: Service) -> Seen:
    """Sends a function's result without its call, and another one behind its call."""
    called = service.called_and_held()
    alone = service.refusal(_answer, service, called, paired=False)
    if alone is None:
        called = service.called_and_held()
    paired = service.refusal(_answer, service, called, paired=True)
    values = {
        (True, True): "accepted",
        (True, False): "pair_refused",
        (False, True): "pair_required",
    }
    found = values.get((alone is None, paired is None))
    evidence = f"a result alone: {service.told(alone)}; behind its call: {service.told(paired)}"
    if found == "pair_required" and not service.lists_calls:
        raise UnsettledError(f"{evidence}; the conversation lists no calls and may hold none")
    return Seen(found, evidence)


def _answer(service: Service, called: Called, *, paired: bool) -> None:
    """Sends the results of all calls of a turn."""
    given: list[Json] = []
    for call in called.calls:
        given += [to_wire(call)] if paired else []
        given += [to_wire(FunctionOutput(call.call_id, "Noted."))]
    service.turn(conversation=called.conversation, input=given, tools=[NOTE], tool_choice="none")


def probe_unanswered_call(service: Service) -> Seen:
    """Asks something else where a call waits for its result."""
    called = service.called_and_held()
    refused = service.refusal(service.turn, conversation=called.conversation)
    evidence = f"a question behind an unanswered call: {service.told(refused)}"
    if refused is None and not service.lists_calls:
        raise UnsettledError(f"{evidence}; the conversation lists no calls and may hold none")
    return Seen("accepted" if refused is None else "refused", evidence)


def _one_of(values: Collection[str | None]) -> str | None:
    """The value, if there is only one."""
    return next(iter(values)) if len(values) == 1 else None


def _first(items: list[Json]) -> Json:
    if not items:
        raise UnsettledError("a message that was created is not listed")
    return items[0]


def _left(service: Service, listed: list[Json]) -> str:
    return f"left {_roles(listed)} within {service.patience:g} s"


def _roles(items: list[Json]) -> str:
    """Whose messages the items are, and which items are none."""
    return " ".join(str(item.get("role") or item.get("type")) for item in items) or "nothing"


PROBES: Mapping[str, Callable[[Service], Seen]] = {
    name.removeprefix("probe_"): probe
    for name, probe in [*globals().items()]
    if name.startswith("probe_")
}
"""The probe of each switch, by the switch's name."""

"""What the documents leave open about the service, each as a switch of the offline server.

The default is what OpenAI's service was recorded to do, or the documents' own example. Each other
value is tested too, so that nothing here rests on a guess. `docs/assumptions.md` is this table,
written by `qwen-conv switches`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints


def _switch(default: Any, asks: str, evidence: str, otherwise: str) -> Any:
    return field(
        default=default, metadata={"asks": asks, "evidence": evidence, "otherwise": otherwise}
    )


_IN_DOUBT = (
    "The conversation is looked at: an answer that is there is returned, a question without one is "
    "answered, and what is not there is sent again, or undecided."
)


@dataclass(frozen=True)
class Switches:
    """How the offline server behaves where the documents do not say; see the table in the docs."""

    stored_items: Literal["all", "messages"] = _switch(
        "all",
        "Which items of a turn does the conversation keep?",
        "OpenAI keeps all. Qwen's pages say of listed items: 'Always message'.",
        "Turns of messages go on as before: what vouches for a message is its stamp, not its "
        "listing. A result whose call the service neither finds nor lists shows it: from then on "
        "the list's calls and results go with every turn.",
    )
    response_ids: Literal["uuid", "resp"] = _switch(
        "uuid",
        "Is a response's id a bare UUID, or `resp_` and a UUID?",
        "docs.qwencloud.com shows a UUID; responses of August 2026 have `resp_`.",
        "Ids are never looked into.",
    )
    output_ids: Literal["kept", "new"] = _switch(
        "kept",
        "Has an answer's item the same id in the conversation?",
        "OpenAI: yes. Qwen: not documented.",
        "Where another process has to check a stamp, it reads the conversation whole.",
    )
    conversation_echo: Literal["yes", "no"] = _switch(
        "yes",
        "Does a response name its conversation?",
        "OpenAI: yes. Qwen's documents never list it.",
        "The id that was asked for is used, never the echo.",
    )
    system_role: Literal["kept", "user"] = _switch(
        "kept",
        "Is a system message listed with its role?",
        "Qwen's example creates a text as `system` and lists it as `user`.",
        "Where a list has to be compared, its system messages may stand there as the user's.",
    )
    listed_content: Literal["parts", "text"] = _switch(
        "parts",
        "Is a message's content listed in parts, or as plain text?",
        "Qwen's pages allow both; their examples show parts.",
        "Both are read.",
    )
    unknown_conversation: Literal["refused", "ignored"] = _switch(
        "refused",
        "What does a turn on an unknown conversation do?",
        "OpenAI: 404. Qwen answered 200 to an unknown id in February 2026.",
        "A conversation is checked once per process before its first turn.",
    )
    unknown_after: Literal["refused", "ignored"] = _switch(
        "refused",
        "What does a list behind an unknown item do?",
        "Not documented. SMG 1.13 begins at the first page.",
        "The conversation is then read whole. One that another process has emptied looks as if "
        "nothing came behind.",
    )
    error_envelope: Literal["flat", "nested"] = _switch(
        "flat",
        "Where do an error's code and message stand?",
        "Flat in measurements of September 2026; nested on the page 'Retrieve a response'.",
        "Both are read, with the request's id.",
    )
    missing_status: Literal["404", "400"] = _switch(
        "404",
        "Which status says that something is not there?",
        "OpenAI: 404. Qwen's code 'InvalidParameter' suggests 400.",
        "Both become the same error.",
    )
    stream_errors: Literal["event", "status"] = _switch(
        "event",
        "How is a request refused that asked for a stream?",
        "Qwen: HTTP 200 and `response.failed` (measured in September 2026).",
        "Both become the same error.",
    )
    concurrent_turns: Literal["locked", "serialized"] = _switch(
        "locked",
        "What happens to two turns of one conversation at once?",
        "OpenAI: 400 `conversation_locked`. Qwen: not documented.",
        "One process takes them one after another anyhow.",
    )
    lone_output: Literal["accepted", "pair_required", "pair_refused"] = _switch(
        "accepted",
        "May a tool's result come without its call, which the conversation holds?",
        "OpenAI: yes. Qwen asks for the call right before it, without saying where.",
        "A refused turn is sent again in the other way, and the next ones at once.",
    )
    unanswered_call: Literal["refused", "accepted"] = _switch(
        "refused",
        "May a turn leave an earlier tool call unanswered?",
        "OpenAI: 400 'No tool output found'. Qwen: not documented.",
        "A turn that is refused for it tells the call that it was not executed.",
    )
    call_arguments: Literal["deltas", "done", "item", "response"] = _switch(
        "deltas",
        "Which event brings a function call's arguments?",
        "OpenAI: deltas. Qwen's list of events names none of them.",
        "All are read; no call is passed on before its arguments are known.",
    )
    expired_items: Literal["hidden", "listed"] = _switch(
        "hidden",
        "Are items listed that the model is not shown any more, after seven days?",
        "'Will no longer appear in the conversation context'; lists are not mentioned.",
        "A stamp of seven days proves nothing, listed or not.",
    )
    store_false: Literal["appended", "not_appended"] = _switch(
        "appended",
        "Does a turn with `store: false` reach the conversation?",
        "Not documented. SMG 1.13: no.",
        "The two are never sent together.",
    )
    other_items: Literal["refused", "dropped", "accepted"] = _switch(
        "refused",
        "What does creating an item do that is no message?",
        "'Only message is supported', without an error.",
        "It is refused here, before anything is sent, unless a history is asked for native items.",
    )
    instructions: Literal["not_stored", "stored"] = _switch(
        "not_stored",
        "Does a turn's system prompt stay in the conversation?",
        "OpenAI: no. Qwen's example sends it with every turn.",
        "Stamps still vouch for the turns; a list without stamps does not match its conversation.",
    )
    final_output: Literal["whole", "missing"] = _switch(
        "whole",
        "Does the last event of a stream repeat the answer?",
        "OpenAI: yes. One of Qwen's examples leaves it out.",
        "The answer is put together from the events before.",
    )
    usage_details: Literal["yes", "no"] = _switch(
        "yes",
        "Does usage tell cached and reasoning tokens?",
        "Newer pages: yes; docs.qwencloud.com shows the three totals only.",
        "They count as 0.",
    )
    failed_turn: Literal["not_stored", "input_stored"] = _switch(
        "not_stored",
        "Does a turn that failed leave its input in the conversation?",
        "OpenAI: no. Qwen: not documented.",
        _IN_DOUBT,
    )
    cut_stream: Literal["stored", "not_stored"] = _switch(
        "stored",
        "Is a turn stored whose stream the client closed?",
        "SMG 1.13: yes, a while later. OpenAI's users report both.",
        _IN_DOUBT,
    )

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if getattr(self, name) not in get_args(hint):
                raise ValueError(
                    f"The switch {name} is {getattr(self, name)!r}; it can be "
                    f"{' or '.join(map(repr, get_args(hint)))}"
                )


def table() -> str:
    """The switches as a table in Markdown."""
    hints = get_type_hints(Switches)
    rows = ["| switch | question | evidence | if it is otherwise |", "|---|---|---|---|"]
    for one in fields(Switches):
        values = [
            f"**`{value}`**" if value == one.default else f"`{value}`"
            for value in get_args(hints[one.name])
        ]
        told = one.metadata
        rows.append(
            f"| `{one.name}`: {', '.join(values)} | {told['asks']} | {told['evidence']} "
            f"| {told['otherwise']} |"
        )
    return "\n".join(rows) + "\n"

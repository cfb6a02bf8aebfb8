"""Turns in any order, with any fault, against a model of their conversation.

The machine takes turns over HTTP as callers do, with the whole list or with what is new, and has
them fail in every way; then it asks again, goes on without what failed, or looks first. It keeps
what the conversation is to hold as blocks, one for each turn: of the caller's list, of others, or
left by a turn whose outcome nobody knows. Words are few, so that no text tells two turns apart;
only what others say is told by its text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import pytest
from conftest import MODEL, another_process
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from lossy import cut, cut_unstored, failed_after, lost, never_ran, put_off, refused, relayed

from langchain_qwen_conv import ChatQwenConv
from llamaindex_qwen_conv import QwenConv
from qwen_conv import errors, flows
from qwen_conv.ledger import Ledger
from qwen_conv.offline import CallTool, Fail, OfflineServer
from qwen_conv.offline.responder import text_of
from qwen_conv.pairing import NOT_EXECUTED
from qwen_conv.turn import NOT_RUN

SWITCHES = (
    {},
    {"failed_turn": "input_stored"},
    {"failed_turn": "input_stored", "output_ids": "new", "response_ids": "resp"},
    {"failed_turn": "input_stored", "stored_items": "messages"},
    {"unknown_after": "ignored", "output_ids": "new"},
)
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {}},
}
CALL = "a call"

Said = list[tuple[str, ...]]

words = st.sampled_from(["yes", "ok"])
replies = st.sampled_from(["ok", "yes", "ok, then so be it", CALL])
ways = st.sampled_from(["invoke", "stream", "ainvoke", "astream"])
releases = st.sampled_from(["before", "at the look", "never"])


# --- What is said -------------------------------------------------------------------------------


def said_by(items: Sequence[Any]) -> Said:
    """What items of the wire say; without the results that calls are told that had none."""
    found: Said = []
    for item in items:
        match item["type"]:
            case "message":
                found.append((item["role"], text_of(item)))
            case "function_call":
                found.append(("call", item["call_id"]))
            case "function_call_output" if item["output"] != NOT_EXECUTED:
                found.append(("result", item["call_id"]))
    return found


def messages_of(said: Said) -> Said:
    return [one for one in said if one[0] in {"user", "assistant"}]


class LangChain:
    """A chat model of LangChain on a conversation."""

    def __init__(self, hub: Any, conversation_id: str) -> None:
        self._chat = ChatQwenConv(model=MODEL, conversations=hub, conversation_id=conversation_id)

    def ask(self, way: str, messages: Any, pieces: int | None, **options: Any) -> Any:
        """The answer; `None` if its stream is left after so many pieces."""
        if way == "invoke":
            return self._chat.invoke(messages, **options)
        if way == "ainvoke":
            return asyncio.run(self._chat.ainvoke(messages, **options))
        chunks = (
            some(self._chat.stream(messages, **options), pieces)
            if way == "stream"
            else asyncio.run(asome(self._chat.astream(messages, **options), pieces))
        )
        return None if len(chunks) == pieces else sum(chunks[1:], chunks[0])

    @staticmethod
    def message(one: tuple[str, ...]) -> Any:
        match one:
            case "user", text:
                return HumanMessage(text)
            case "assistant", text:
                return AIMessage(text)
            case "call", call_id:
                return AIMessage("", tool_calls=[{"id": call_id, "name": "weather", "args": {}}])
            case _, call_id:
                return ToolMessage("sunny", tool_call_id=call_id)

    @staticmethod
    def told(message: Any) -> Said:
        text = [("assistant", message.text)] if message.text else []
        return [*text, *(("call", call["id"]) for call in message.tool_calls)]


class LlamaIndex:
    """An LLM of LlamaIndex on a conversation."""

    def __init__(self, hub: Any, conversation_id: str) -> None:
        self._llm = QwenConv(
            model=MODEL,
            conversations=hub,
            conversation_id=conversation_id,
            on_divergence="raise",
        )

    def ask(self, way: str, messages: Any, pieces: int | None, **options: Any) -> Any:
        """The answer; `None` if its stream is left after so many pieces."""
        llm = self._llm
        if way == "invoke":
            return llm.chat(messages, **options).message
        if way == "ainvoke":
            return asyncio.run(llm.achat(messages, **options)).message

        async def streamed() -> list[Any]:
            return await asome(await llm.astream_chat(messages, **options), pieces)

        if way == "stream":
            chunks = some(llm.stream_chat(messages, **options), pieces)
        else:
            chunks = asyncio.run(streamed())
        return None if len(chunks) == pieces else chunks[-1].message

    @staticmethod
    def message(one: tuple[str, ...]) -> Any:
        match one:
            case ("user" | "assistant") as role, text:
                return ChatMessage(text, role=role)
            case "call", call_id:
                block = ToolCallBlock(tool_call_id=call_id, tool_name="weather", tool_kwargs={})
                return ChatMessage([block], role="assistant")
            case _, call_id:
                named = {"tool_call_id": call_id}
                return ChatMessage("sunny", role="tool", additional_kwargs=named)

    @staticmethod
    def told(message: Any) -> Said:
        text = [("assistant", message.content)] if message.content else []
        calls = [one for one in message.blocks if isinstance(one, ToolCallBlock)]
        return [*text, *(("call", call.tool_call_id) for call in calls)]


def some(chunks: Any, most: int | None) -> list[Any]:
    with closing(chunks):
        return [*islice(chunks, most)]


async def asome(chunks: Any, most: int | None) -> list[Any]:
    found: list[Any] = []
    async with aclosing(chunks):
        async for chunk in chunks:
            found.append(chunk)
            if len(found) == most:
                break
    return found


# --- The service, and what becomes of requests --------------------------------------------------


class Run(NamedTuple):
    """A time that the service has answered: what it was shown, and what it said."""

    shown: Said
    reply: Said


class Place:
    """A server, the relay before it, and what it answers."""

    def __init__(self, stack: ExitStack, switches: dict[str, str]) -> None:
        # A stream has ended a moment before the server lets the next turn in: nothing waits for it.
        server = OfflineServer(self.script, concurrent_turns="serialized", **switches)
        self.server = stack.enter_context(server)
        self.relay = stack.enter_context(relayed(self.server.base_url))
        self.keeps_tools = switches.get("stored_items") != "messages"
        self.keeps_ids = switches.get("output_ids") != "new"
        self.count = 0
        self.has_called = False
        self.clear()

    def clear(self) -> None:
        self.relay.faults, self.runs, self.fails = [], [], []
        self.relay.sees = lambda _request: None
        self.relay.loses = lambda _method, _path: False
        self.reply, self.mode = "ok", "turn"

    def arrange(self, reply: str, trouble: Trouble) -> list[Callable[[], Any]]:
        """Has a turn go wrong; what is put off comes on the list that is returned."""
        self.clear()
        self.reply, self.fails = reply, [*trouble.fails]
        waiting: list[Callable[[], Any]] = []
        shapes = {PUT_OFF: put_off(waiting), HALF: cut_unstored(4, waiting)}
        self.relay.faults = [shapes.get(one, one) for one in trouble.faults]
        if trouble.obstacle is not None:
            wanted, end = trouble.obstacle
            self.relay.loses = lambda method, path: (
                method == wanted and path.split("?")[0].endswith(end)
            )
        return waiting

    def script(self, context: Any, request: Any) -> Any:
        if self.mode == "others":
            return f"{text_of(context[-1])}!"
        reply: Any = self.reply
        said = [("assistant", reply)]
        if reply == CALL:
            reply, said = "ok", [("assistant", "ok")]
            if request.get("tools"):
                self.count, self.has_called = self.count + 1, True
                reply, said = (
                    CallTool("weather", {}, f"c{self.count}"),
                    [("call", f"c{self.count}")],
                )
        if self.mode == "turn" and self.fails:
            return "this is what it said before", self.fails.pop()
        if self.mode == "turn":
            self.runs.append(Run(said_by(context), said))
        return reply


class Trouble(NamedTuple):
    """What becomes of a turn's requests, one after another.

    Attributes:
        faults: What becomes of them.
        ends_well: Whether the turn is to be answered all the same.
        fails: What the service fails with.
        obstacle: The method and the end of the path of what gets no answer.
    """

    faults: tuple[Any, ...] = ()
    ends_well: bool = True
    fails: tuple[Any, ...] = ()
    obstacle: tuple[str, str] | None = None

    @property
    def retries(self) -> int:
        """How often a request may be sent again: where nothing says when, that takes time."""
        return 0 if self.fails or self.obstacle else 2


MENDED = (
    refused(429, "Throttling.RateQuota", retry_after="0"),
    refused(503, "server_overloaded", retry_after_ms="1"),
    refused(500, "InternalError", retry_after="0"),
    refused(502, "InternalError", retry_after="0"),
    lost,
    failed_after(500),
    failed_after(502),
    cut(0),
    cut(3),
    cut(7),
)
FINAL = (never_ran, refused(400, "InvalidParameter"))
PUT_OFF = "put off"
HALF = "half of its stream, and put off"
NONE = Trouble()


@st.composite
def troubles(draw: Any) -> Trouble:
    """What goes wrong with a turn."""
    kind = draw(st.sampled_from(["mended", "final", "obstacle"]))
    first = draw(st.lists(st.sampled_from(MENDED), max_size=2, unique=True))
    if kind == "mended":
        return Trouble(tuple(first))
    if kind == "obstacle":
        obstacle = draw(st.sampled_from([("POST", "items"), ("GET", "items"), ("DELETE", "")]))
        fails = draw(st.sampled_from([(), (Fail("no"),)]))
        last = draw(st.sampled_from([lost, never_ran, cut(2)]))
        return Trouble((last,), False, fails, obstacle)
    last = draw(st.sampled_from([*FINAL, PUT_OFF, HALF, cut_unstored(3), cut_unstored(6)]))
    return Trouble((*first[:1], last), ends_well=False)


# --- The model ----------------------------------------------------------------------------------


@dataclass(eq=False)
class Block:
    """What a turn, or another process, put into the conversation at once."""

    said: Said
    listed: bool = True  # the caller's list has it
    foreign: bool = False


@dataclass
class Lost:
    """A turn whose outcome is not known."""

    new: list[tuple[str, ...]]
    block: Block | None
    is_certain: bool
    """Whether it can be told from what others add."""
    waiting: list[Callable[[], Any]] = field(default_factory=list)


class Attempt(NamedTuple):
    """A turn that came to nothing.

    Attributes:
        runs: The times that the service answered.
        sent: Whether the turn was sent to the conversation.
        is_list: Whether the list had answers; if not, it is taken for nothing but new messages.
        is_certain: See `Lost`.
        is_refused: Whether nothing of it may be there.
        waiting: What was put off.
    """

    runs: list[Run]
    sent: bool
    is_list: bool
    is_certain: bool
    is_refused: bool
    waiting: list[Callable[[], Any]]


Outcome = tuple[list[Block], Block | None]
"""What the conversation may hold, and what of that a lost turn has left."""


def flat(blocks: Sequence[Block]) -> Said:
    return [*chain.from_iterable(block.said for block in blocks)]


class Conversations(RuleBasedStateMachine):
    places: dict[int, Place]

    @initialize(
        switches=st.sampled_from(range(len(SWITCHES))),
        shell=st.sampled_from([LangChain, LangChain, LlamaIndex]),
    )
    def begin(self, switches: int, shell: Any) -> None:
        self.place = self.places[switches]
        self.place.clear()
        self.place.has_called = False
        self.hub = another_process(self.place.server, settle_timeout=0.0)
        self.hub.base_url = self.place.relay.base_url
        self.id = self.hub.run(flows.create).id
        self.shell = shell(self.hub, self.id)
        self.held: list[Block] = []
        self.list: list[Any] = []
        self.lost: Lost | None = None
        self.listed: Said = []
        self.foreign_ids: list[str] = []

    # --- What there is ------------------------------------------------------------------------

    @property
    def items(self) -> list[dict[str, Any]]:
        return self.place.server.items(self.id)

    @property
    def contents(self) -> Said:
        return self.seen(said_by(self.items))

    def seen(self, said: Said) -> Said:
        """What of this the conversation lists."""
        return said if self.place.keeps_tools else messages_of(said)

    @property
    def left(self) -> Block | None:
        return self.lost.block if self.lost else None

    @property
    def left_is_answered(self) -> bool:
        return self.left is not None and len(self.left.said) > len(self.seen(self.lost.new))

    @property
    def call(self) -> str | None:
        """The call that the caller's list ends with."""
        last = self.listed[-1] if self.listed else ("",)
        return last[1] if last[0] == "call" else None

    @property
    def has_open_call(self) -> bool:
        calls = [one["call_id"] for one in self.items if one["type"] == "function_call"]
        answered = [one["call_id"] for one in self.items if one["type"] == "function_call_output"]
        return not set(calls) <= set(answered)

    @property
    def may_diverge(self) -> bool:
        """Whether something stands in the conversation that the caller's list does not know."""
        unknown = any(not one.listed and one is not self.left for one in self.held)
        used_tools = any(one[0] == "call" for one in self.listed)
        return unknown or (used_tools and not self.place.keeps_tools)

    def may_be_mistaken(self, new: Said, *, is_list: bool, comes: bool) -> bool:
        """Whether nothing tells that such a turn is there, or that it is not.

        A process that does not know what the conversation ends with takes the last turn for the
        one in doubt, if that says the same. Where ids tell nothing, the conversation is as it was
        if it ends as it did. `comes`: what was put off comes before the turn.
        """
        said, new = flat(self.held), self.seen(new)
        if not is_list and (self.left or comes or not self.knows_the_end):
            if comes and self.lost:
                said += [*self.seen(self.lost.new), ("assistant", "")]
            return new in (said[-len(new) :], said[-len(new) - 1 : -1])
        before = self.seen(self.listed) if is_list else self.held[-1].said if self.held else []
        after = [*said, *new]
        return not self.place.keeps_ids and after[len(after) - len(before) + 1 :] == before[:-1]

    @property
    def is_hidden(self) -> bool:
        """Whether nothing that the process knows stands where a turn begins."""
        if not self.tells_by_ids and any(one.foreign and not one.listed for one in self.held):
            return True
        return not self.place.keeps_tools and self.place.has_called

    @property
    def tells_by_ids(self) -> bool:
        """Whether the process can tell what came behind by the id of the last item it knows."""
        return self.place.keeps_ids and self.knows_the_end

    @property
    def knows_the_end(self) -> bool:
        known = self.hub.ledger.of(self.id)
        return bool(known.head or known.empty)

    def release(self) -> None:
        """What was put off is carried out."""
        assert self.lost is not None
        before, waiting, self.lost.waiting = self.contents, self.lost.waiting, []
        self.place.mode, mode = "late", self.place.mode
        for carry_out in waiting:
            carry_out()
        self.place.mode = mode
        came = self.contents[len(before) :]
        if came:
            self.lost.block = Block(came, listed=False)
            self.held.append(self.lost.block)

    # --- A turn -------------------------------------------------------------------------------

    def take(
        self,
        new: Said,
        *,
        whole: bool,
        way: str,
        reply: str = "ok",
        trouble: Trouble = NONE,
        tools: bool = False,
        release: str = "never",
        pieces: int | None = None,
    ) -> None:
        place, before = self.place, self.lost
        last = self.held[-1] if self.held else None
        is_list = whole and any(one[0] in {"assistant", "call"} for one in self.listed)
        is_stray = last is not None and not last.listed and not last.foreign
        if is_list and is_stray and last is not self.left and last.said == self.seen(new):
            # A question that stands there alone, and which the list ends with, is taken back.
            before, self.lost = None, Lost(new, last, is_certain=True)
        is_stray &= before is None
        comes = before is not None and before.waiting and release != "never"
        if self.is_hidden or self.may_be_mistaken(new, is_list=is_list, comes=bool(comes)):
            trouble, pieces = NONE, None
        # What is lost first is a refusal, where a call has no result yet.
        ends_well = trouble.ends_well and not (trouble.faults and self.has_open_call)
        waiting = place.arrange(reply, trouble)
        turns: list[bool] = []

        def sees(request: Any) -> None:
            if request.is_turn:
                turns.append(is_list or self.knows_the_end)
            if request.is_list and not turns and release == "at the look" and before is not None:
                self.release()

        place.relay.sees = sees
        if before is not None and release == "before":
            self.release()
        messages = [*(self.list if whole else ()), *map(self.shell.message, new)]
        options = {"max_retries": trouble.retries, **({"tools": [WEATHER]} if tools else {})}
        error: errors.QwenConvError | None = None
        answer = None
        try:
            answer = self.shell.ask(way, messages, pieces, **options)
        except errors.QwenConvError as raised:
            error = raised
        runs = [*place.runs]
        place.clear()
        if answer is not None:
            self.was_taken(new, answer, runs, is_list=is_list)
        elif isinstance(error, errors.DivergedError):
            assert is_list, error
            assert self.may_diverge, error
            self.becomes(self.with_less_left())
            self.lost = None
        else:
            assert pieces or not ends_well, error
            is_refused = isinstance(error, NOT_RUN) and not trouble.fails
            attempt = Attempt(runs, bool(turns), is_list, all(turns), is_refused, waiting)
            self.has_failed(new, attempt)
            if is_stray and not attempt.sent:
                self.lost = None

    def was_taken(self, new: Said, answer: Any, runs: list[Run], *, is_list: bool) -> None:
        """The turn is there once, at its place, and was answered as the caller was told."""
        said = self.shell.told(answer)
        block = Block(self.seen(new + said))
        if self.is_repeated(new) and self.left_is_answered:
            assert not runs, "it was answered already"
            self.becomes([([block if one is self.left else one for one in self.held], None)])
        else:
            self.becomes([([*self.behind_which(new, is_list=is_list), block], None)])
        if runs:
            assert runs[-1].reply == said
            held = flat(self.held)
            assert self.seen(runs[-1].shown) == held[: len(held) - len(self.seen(said))]
        if is_list:
            first = next((n for n, one in enumerate(self.held) if one.listed), 0)
            assert all(one.listed or one.foreign for one in self.held[first:])
        self.lost = None
        self.list += [*map(self.shell.message, new), answer]
        self.listed += new + said

    def has_failed(
        self,
        new: Said,
        attempt: Attempt,
    ) -> None:
        """Only what is allowed to be left of it, and of the lost one before, is there."""
        answers = [run.reply for run in attempt.runs] or [[]]
        if attempt.sent:
            before = self.behind_which(new, is_list=attempt.is_list)
            wholes = [] if attempt.is_refused else [self.seen(new + one) for one in answers]
            parts = [Block(one[:n], False) for one in wholes for n in range(1, len(one) + 1)]
            left = self.becomes([(before, None), *(([*before, one], one) for one in parts)])
            self.lost = Lost(new, left, attempt.is_certain, attempt.waiting)
            if attempt.is_refused:
                self.lost = None
            return
        outcomes = self.with_less_left()
        if self.left and self.is_repeated(new) and not self.left_is_answered:
            others = [one for one in self.held if one is not self.left]
            more = [Block(self.left.said + self.seen(one), False) for one in answers]
            outcomes += [([*others, one], one) for one in more]
        left = self.becomes(outcomes)
        if self.lost is not None:
            self.lost = Lost(self.lost.new, left, self.lost.is_certain)

    def is_repeated(self, new: Said) -> bool:
        return self.lost is not None and self.lost.new == new

    def behind_which(self, new: Said, *, is_list: bool) -> list[Block]:
        """What is there when a turn is sent: what a lost one left stays before new messages."""
        if self.is_repeated(new) or is_list:
            return [one for one in self.held if one is not self.left]
        return [*self.held]

    def with_less_left(self) -> list[Outcome]:
        """The outcomes where what a lost turn left was taken out, from its end, or a part of it."""
        if self.left is None:
            return [(self.held, None)]
        said = self.left.said
        parts = [Block(said[:count], listed=False) for count in range(len(said), 0, -1)]
        others = [one for one in self.held if one is not self.left]
        return [
            *(([one if each is self.left else each for each in self.held], one) for one in parts),
            (others, None),
        ]

    def becomes(self, outcomes: Sequence[Outcome]) -> Block | None:
        """One of these is what the conversation holds now; what is left then of a lost turn."""
        contents = self.contents
        for held, left in outcomes:
            if flat(held) == contents:
                self.held = held
                return left
        raise AssertionError(f"It holds {contents}, and not {[flat(one) for one, _ in outcomes]}")

    # --- What callers do ----------------------------------------------------------------------

    @rule(
        word=words,
        whole=st.sampled_from([True, True, False]),
        way=ways,
        reply=replies,
        tools=st.booleans(),
        trouble=st.one_of(st.just(NONE), troubles(), troubles()),
        release=releases,
    )
    def ask(self, word: str, **how: Any) -> None:
        self.take([("user", word)], **how)

    @rule(
        word=words,
        whole=st.booleans(),
        way=ways,
        tools=st.booleans(),
        after=st.sampled_from([0, 2]),
        lost=st.sampled_from([None, ("POST", "items"), ("DELETE", ""), ("GET", "items")]),
        release=releases,
    )
    def ask_in_vain(self, word: str, after: int, lost: Any, **how: Any) -> None:
        trouble = Trouble((), False, (Fail("no", after=after),), lost)
        self.take([("user", word)], trouble=trouble, **how)

    @precondition(lambda self: self.lost)
    @rule(
        whole=st.booleans(),
        way=ways,
        reply=replies,
        tools=st.booleans(),
        trouble=st.one_of(st.just(NONE), troubles()),
        release=releases,
    )
    def ask_again(self, **how: Any) -> None:
        self.take(self.lost.new, **how)

    @precondition(lambda self: self.lost and self.listed and len(self.lost.new) == 1)
    @rule(word=words, way=ways, reply=replies, release=releases)
    def ask_again_and_more(self, word: str, **how: Any) -> None:
        self.take([*self.lost.new, ("user", word)], whole=True, **how)

    @precondition(lambda self: self.call)
    @rule(
        whole=st.booleans(),
        way=ways,
        reply=replies,
        trouble=st.one_of(st.just(NONE), troubles()),
        release=releases,
    )
    def give_the_result(self, whole: bool, trouble: Trouble, **how: Any) -> None:
        if not self.place.keeps_tools:  # nothing tells then what a result has left
            whole, trouble = True, NONE
        self.take([("result", self.call)], whole=whole, trouble=trouble, tools=True, **how)

    @rule(
        word=words,
        whole=st.booleans(),
        way=st.sampled_from(["stream", "astream"]),
        fault=st.sampled_from([None, None, cut_unstored(9), HALF]),
        release=releases,
    )
    def leave_a_stream(self, fault: Any, word: str, **how: Any) -> None:
        trouble = NONE if fault is None else Trouble((fault,), ends_well=False)
        reply = "ok, then so be it"
        self.take([("user", word)], reply=reply, trouble=trouble, pieces=1, **how)

    # A list without an answer is taken for nothing but new messages.
    @precondition(lambda self: any(one[0] in {"assistant", "call"} for one in self.contents))
    @rule(word=words, way=ways, reply=replies)
    def read_anew_and_ask(self, word: str, **how: Any) -> None:
        """The list is what the conversation holds: it has no stamps, and what others said."""
        if self.lost:
            self.lost.waiting = []
        self.listed = self.contents
        self.list = [*map(self.shell.message, self.listed)]
        for block in self.held:
            block.listed = True
        self.lost = None
        self.take([("user", word)], whole=True, **how)

    @rule(release=releases)
    def settle(self, release: str) -> None:
        if self.lost and release == "before":
            self.release()
        found = self.hub.settle(self.id)
        if self.left is None:
            assert found is None or (found == "nothing" and self.lost)
            self.lost = None
        elif self.place.keeps_tools or self.left_is_answered:
            assert found == ("answered" if self.left_is_answered else "unanswered")

    # --- What else happens --------------------------------------------------------------------

    # A process that has created a conversation, and never used it, takes it for empty.
    @precondition(lambda self: not self.has_open_call and not self.hub.ledger.of(self.id).empty)
    @precondition(lambda self: self.lost is None or self.lost.is_certain)
    @precondition(lambda self: not (self.lost and self.lost.waiting) or self.tells_by_ids)
    @rule(count=st.integers(1, 2))
    def others_take_turns(self, count: int) -> None:
        there = another_process(self.place.server)
        chat = ChatQwenConv(model=MODEL, conversations=there, conversation_id=self.id)
        self.place.mode = "others"
        for _ in range(count):
            self.place.count += 1
            question = f"others {self.place.count}"
            chat.invoke(question)
            said = [("user", question), ("assistant", f"{question}!")]
            self.held.append(Block(said, listed=False, foreign=True))
        self.place.mode = "turn"
        there.close()
        self.foreign_ids += [one["id"] for one in self.items[-2 * count :]]

    @precondition(lambda self: not self.lost)
    @rule()
    def start_anew(self) -> None:
        """The process ends, and another one goes on with its list."""
        self.hub.ledger = Ledger()

    @invariant()
    def holds_what_it_is_to_hold(self) -> None:
        if hasattr(self, "held"):
            assert self.contents == flat(self.held)
            ids = [one["id"] for one in self.items]
            assert [one for one in ids if one in self.foreign_ids] == self.foreign_ids

    def teardown(self) -> None:
        if hasattr(self, "hub"):
            self.place.clear()
            self.hub.close()


# What httpx streams is left to the garbage collector, which may come while another loop runs.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator")
def test_every_turn_is_there_once_whatever_becomes_of_it_and_in_any_order():
    with ExitStack() as stack:
        Conversations.places = {n: Place(stack, each) for n, each in enumerate(SWITCHES)}
        case = Conversations.TestCase
        case.settings = settings(
            max_examples=60,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
            phases=(Phase.generate, Phase.shrink),
        )
        case("runTest").runTest()

"""What takes the turns of a story; the frameworks' own are in modules beside this one.

A driver's methods are `async def`s that await nothing but asynchronous twins: driven by a thread,
they never suspend (see `qwen_conv.api.finish`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, TypeVar

from chaos.marks import Mark, said
from chaos.plan import Story
from qwen_conv import QwenConversations, flows
from qwen_conv.items import Item, to_wire

T = TypeVar("T")

MODEL = "qwen3.6-plus"


class LeftError(Exception):
    """The consumer left the stream."""


class Driver:
    """Takes the turns of one conversation, in one way.

    Args:
        story: The conversation.
        hub: What it shares with other stories.

    Attributes:
        lines: What the conversation holds of the step, as `chaos.marks.said` has it, as far as the
            driver was told.
        leaves_after: After how many pieces of the next stream the consumer leaves.
    """

    def __init__(self, story: Story, hub: QwenConversations) -> None:
        self.story = story
        self.hub = hub
        self.key = f"story {story.number}"
        self.lines: list[str] = []
        self.leaves_after: int | None = None
        self._named: str | None = None

    async def open(self) -> None:
        """Creates the conversation, if it is to be passed by its id."""
        if not self.story.in_session:
            self._named = (await self.run(flows.create)).id

    @property
    def selects(self) -> dict[str, Any]:
        """What selects the conversation."""
        if self.story.in_session:
            return {"session_id": self.key}
        return {"conversation_id": self._named}

    @property
    def conversation_id(self) -> str | None:
        """The conversation, if it was begun."""
        if not self.story.in_session:
            return self._named
        row = self.hub.registry.get(self.hub.session(self.key))
        return row.conversation_id if row else None

    @property
    def settles_by_hand(self) -> bool | None:
        """Whether doubts are to be settled by hand; `None`: either way will do."""
        return None

    def wait_for(self, seconds: float | None) -> None:
        """How long the next turns wait for an answer."""
        raise NotImplementedError

    async def begin(self, text: str) -> None:
        """Has a question be asked next."""
        raise NotImplementedError

    async def proceed(self) -> None:
        """Takes the turn; called again after an error, takes the same turn again.

        Raises:
            QwenConvError: It failed.
            LeftError: The consumer left.
        """
        raise NotImplementedError

    async def take_up(self) -> bool:
        """Takes the answer from the conversation, which holds it; whether the turn is over."""
        return False

    async def settle(self) -> str:
        """Settles a doubt by hand."""
        conversation_id = self.conversation_id
        if conversation_id is None:
            return "nothing"
        if self.story.in_tasks:
            return str(await self.hub.asettle(conversation_id))
        return str(self.hub.settle(conversation_id))

    async def begin_writing(self, mark: Mark, count: int) -> None:
        """Has messages be written next."""
        raise NotImplementedError

    async def write(self) -> None:
        """Writes them; called again after an error, writes the same ones again."""
        raise NotImplementedError

    async def read(self) -> list[str]:
        """All that the conversation holds, read as by somebody who knows nothing of it."""
        conversation_id = self.conversation_id
        if conversation_id is None:
            return []
        return said([to_wire(item) for item in await self.run(flows.read, conversation_id)])

    # --- In threads, or in tasks ------------------------------------------------------------------

    async def run(
        self, flow: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
    ) -> T:
        """Runs a flow of the core."""
        if self.story.in_tasks:
            return await self.hub.arun(flow, *args, **kwargs)
        return self.hub.run(flow, *args, **kwargs)

    async def either(
        self, twin: tuple[Callable[..., T], Callable[..., Coroutine[Any, Any, T]]], *args: Any
    ) -> T:
        """Calls a method, or its asynchronous twin."""
        if self.story.in_tasks:
            return await twin[1](*args)
        return twin[0](*args)

    async def pieces(self, pieces: Any) -> list[Any]:
        """The pieces of a stream, as far as the consumer stays."""
        leaves_after, self.leaves_after = self.leaves_after, None
        got: list[Any] = []
        if self.story.in_tasks:
            async with aclosing(pieces) as each:
                async for piece in each:
                    got.append(piece)
                    _stay(got, leaves_after)
        else:
            with closing(pieces) as each:
                for piece in each:
                    got.append(piece)
                    _stay(got, leaves_after)
        return got

    async def answer_items(self) -> Sequence[Item]:
        """What the conversation ends with that a model made."""
        items = await self.run(flows.read, str(self.conversation_id))
        return [*_outputs(items)]


def _stay(got: Sequence[Any], leaves_after: int | None) -> None:
    if leaves_after is not None and len(got) > leaves_after and not _is_whole(got[-1]):
        raise LeftError


def _is_whole(piece: Any) -> bool:
    """Whether the turn was over before that piece of it came: nobody leaves it any more."""
    message = piece[0] if isinstance(piece, tuple) else piece
    told = (getattr(message, name, {}) for name in ("response_metadata", "additional_kwargs"))
    return any("decision" in one for one in told)


def _outputs(items: Sequence[Item]) -> Iterator[Item]:
    wires = [to_wire(item) for item in items]
    asked = [
        number
        for number, wire in enumerate(wires)
        if wire.get("role") == "user" or wire["type"] == "function_call_output"
    ]
    yield from items[asked[-1] + 1 :] if asked else items

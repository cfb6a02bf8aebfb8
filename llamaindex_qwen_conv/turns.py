"""Turns that an LLM takes, from a call of LlamaIndex to a response that says where it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import aclosing, closing
from typing import NamedTuple

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
)

from llamaindex_qwen_conv import messages as mapping
from llamaindex_qwen_conv.answers import Pieces, response, with_first_call
from llamaindex_qwen_conv.references import FORM, referring
from qwen_conv.api import Api, AsyncApi, SyncApi, finish
from qwen_conv.errors import DivergedError
from qwen_conv.held import Held, Line
from qwen_conv.items import Item
from qwen_conv.local import Entry, LocalList
from qwen_conv.mirror import Mirror
from qwen_conv.record import Draft
from qwen_conv.stamps import Stamp
from qwen_conv.turn import Outcome, Turn, TurnRequest
from qwen_conv.turns import adeltas, begin, deltas, end, unsent

logger = logging.getLogger("qwen_conv")


class Asked(NamedTuple):
    """What a call asks for: the turn as it is taken on no conversation, and where it may belong."""

    request: TurnRequest
    messages: Sequence[ChatMessage]
    mirror: Mirror | None
    bound_to: str | None

    @property
    def one_call(self) -> bool:
        """Whether an answer that no conversation holds is to call one tool at most."""
        return self.request.settings.get("parallel_tool_calls") is False


def local_list(messages: Sequence[ChatMessage], model: str) -> LocalList:
    """The messages as the decision sees them; each is converted where somebody looks."""
    return LocalList(
        messages,
        lambda message: Entry(mapping.to_core(message, model), _stamp(message)),
        tuple([mapping.key(message) for message in messages]),
        _stamp,
    )


def _stamp(message: ChatMessage) -> Stamp | None:
    held = FORM.held(message)
    return held.stamp if held is not None else None


def _known_by_text(message: ChatMessage) -> ChatMessage:
    """The message; one that was answered before there was a store for it says so by its text."""
    held = FORM.held(message)
    return mapping.copied(message) if held is not None and held.mirror is None else message


def as_held(items: Sequence[Item]) -> Sequence[Item]:
    """What an answer's items still say once they are a message of LlamaIndex."""
    return mapping.to_core(mapping.from_core(items))


async def _begun(api: Api, asked: Asked) -> tuple[Turn, Line | None]:
    if asked.mirror is None or not asked.messages:
        return await begin(api, asked.request), None
    messages = [_known_by_text(message) for message in asked.messages]
    is_bound = asked.bound_to is not None
    turn, line = await asked.mirror.begin(api, asked.request, messages, is_bound=is_bound)
    if line is None and asked.bound_to is not None and asked.request.on_divergence == "raise":
        raise DivergedError(asked.bound_to, turn.why)
    return turn, line


async def taken(api: Api, asked: Asked) -> ChatResponse:
    """Takes a turn whose answer comes whole."""
    turn, line = await _begun(api, asked)
    with turn:
        while await unsent(api, turn):
            with turn.attempt() as call:
                turn.response = await api.send(call)
        outcome, message = await _ended(api, asked, turn, line)
    return response(outcome, message)


def pieces(api: SyncApi, asked: Asked) -> ChatResponseGen:
    """Takes a turn whose answer comes piece by piece."""
    turn, line = finish(_begun(api, asked))
    with turn:
        so_far = Pieces(one_call=_one_call(asked, turn))
        with closing(deltas(api, turn)) as news:
            for delta in news:
                if (piece := so_far.piece(delta)) is not None:
                    yield piece
        outcome, message = finish(_ended(api, asked, turn, line))
    yield response(outcome, message, streamed=True)


async def apieces(api: AsyncApi, asked: Asked) -> ChatResponseAsyncGen:
    """`pieces`, for tasks."""
    turn, line = await _begun(api, asked)
    with turn:
        so_far = Pieces(one_call=_one_call(asked, turn))
        async with aclosing(adeltas(api, turn)) as news:
            async for delta in news:
                if (piece := so_far.piece(delta)) is not None:
                    yield piece
        outcome, message = await _ended(api, asked, turn, line)
    yield response(outcome, message, streamed=True)


async def _ended(
    api: Api, asked: Asked, turn: Turn, line: Line | None
) -> tuple[Outcome, ChatMessage]:
    """Ends a turn that is answered."""
    outcome = await end(api, turn)
    return outcome, await _committed(api, asked, line, outcome, turn.received)


def _one_call(asked: Asked, turn: Turn) -> bool:
    return asked.one_call and turn.conversation_id is None


async def _committed(
    api: Api, asked: Asked, line: Line | None, outcome: Outcome, said: Sequence[Item]
) -> ChatMessage:
    """The answer as a message that says where it is; what the service took is noted."""
    answer, stamp = outcome.response, outcome.stamp
    if answer.status == "incomplete":
        why = answer.incomplete_reason or "the service does not say why"
        logger.warning("an answer is incomplete: %s", why)
    message = mapping.from_core(answer.output)
    if stamp is None:
        return with_first_call(message) if asked.one_call else message
    held = None
    if asked.mirror is not None and line is not None:
        held = await asked.mirror.commit(api, line, outcome, message, as_held(said))
    if held is None:
        held = Held(None, message, Draft(tuple(as_held(said))), FORM.face(message), stamp=stamp)
    return referring(message, held)

"""Erasing: what a session or a conversation has left is deleted, with the service and here.

The service deletes nothing along with a conversation: its items stay, and so do the responses of
its turns, for seven days (help.aliyun.com, "Delete a conversation", "Delete a response"; read
2026-11-20). So each of them is deleted by its id, and the conversation last: as long as something
of it is left, it can be erased again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qwen_conv.api import Api
from qwen_conv.calls import (
    Call,
    DeleteConversation,
    DeleteItem,
    DeleteResponse,
    RetrieveConversation,
    RetrieveItem,
    RetrieveResponse,
)
from qwen_conv.errors import (
    ConversationNotFoundError,
    Failure,
    KeyRefusedError,
    NoReplyError,
    NotFoundError,
    QwenConvError,
    RegistryError,
    ServiceFailedError,
    UsageError,
)
from qwen_conv.flows import Pages
from qwen_conv.items import Item
from qwen_conv.limits import checked_conversation_id, checked_session_id, is_conversation_id
from qwen_conv.registry import Outbox, Overlays

logger = logging.getLogger("qwen_conv")

Kind = Literal["items", "item", "response", "conversation"]

NOT_KNOWN = (
    "Not known here, and so not deleted: responses that another process took without a SqlRegistry "
    "that both share; responses whose reply was lost; those of chains (state='response') and of "
    "turns on no conversation. The service deletes a response seven days after it was made."
)

_CALLS: Mapping[Kind, tuple[type[Call[Any]], type[Call[Any]]]] = {
    "item": (DeleteItem, RetrieveItem),
    "response": (DeleteResponse, RetrieveResponse),
    "conversation": (DeleteConversation, RetrieveConversation),
}
"""What deletes a thing, and what shows it."""

_PATIENCE = 3
"""Requests that get no answer, or whose key is refused, one after the other, before the rest is
left: each of them may take as long as the timeout says, several times."""


@dataclass(frozen=True, slots=True)
class Left:
    """Something that could not be deleted.

    Attributes:
        kind: "item", "response" or "conversation"; "items" if those could not be listed.
        id: Its id; that of the conversation for "items".
        conversation_id: The conversation that it is of.
        error: Why.
    """

    kind: Kind
    id: str
    conversation_id: str
    error: QwenConvError

    def __str__(self) -> str:
        return f"{self.kind} {self.id} of {self.conversation_id}: {self.error}"


@dataclass(frozen=True, slots=True)
class Erased:
    """What was deleted, and what was not. What was gone already counts as deleted.

    Attributes:
        conversations: The ids of conversations that are gone.
        items: The ids of items that are gone.
        responses: The ids of responses that are gone.
        left: What could not be deleted, each with the reason. Erase again to try again.
        not_known: What may be left that nobody can tell.
    """

    conversations: tuple[str, ...]
    items: tuple[str, ...]
    responses: tuple[str, ...]
    left: tuple[Left, ...]
    not_known: str = NOT_KNOWN

    def check(self) -> None:
        """Raises the first of the reasons why something is left, if anything is."""
        if self.left:
            raise self.left[0].error

    def __str__(self) -> str:
        gone = (
            f"Deleted: {len(self.conversations)} conversations, {len(self.items)} items, "
            f"{len(self.responses)} responses."
        )
        return "\n".join([gone, *(f"Left: {one}" for one in self.left), self.not_known])


async def erase(
    api: Api, *, session: str | None = None, conversation_id: str | None = None
) -> Erased:
    """Deletes all that is known of a session, or of a conversation, and says what is left.

    Deleted are, of each conversation, its items, the responses of its turns, and itself; of a
    session also the conversations that it was bound to before, messages that wait to be sent, and
    its key. What is kept here of them is forgotten: overlays, mirrors, the ledger. Where something
    could not be deleted, its conversation stays, and a session stays bound to it: erase again.

    Args:
        api: What is awaited.
        session: The session's key.
        conversation_id: The conversation, instead.

    Raises:
        UsageError: Not exactly one of the two was given, or one that cannot be.
        SessionElsewhereError: The registry has the key for another base URL or account.
        RegistryError: The registry fails.
        ConversationBusyError: A turn of the conversation is open right here.
    """
    if (session is None) == (conversation_id is None):
        raise UsageError("Pass session or conversation_id: one of the two.")
    key = str(session if conversation_id is None else conversation_id)
    mirrors = api.hub.mirrors
    mirror = mirrors.find(key)
    if mirror is not None and is_conversation_id(key) == (conversation_id is not None):
        erased = await mirror.erase(api)
    else:
        erased = await erase_stored(api, session=session, conversation_id=conversation_id)
    mirrors.forget_erased(key, erased.conversations)
    return erased


async def erase_stored(
    api: Api, *, session: str | None = None, conversation_id: str | None = None
) -> Erased:
    """Does what `erase` does, but for the mirrors that the hub has."""
    erasing = _Erasing()
    if session is None:
        await erasing.conversation(api, checked_conversation_id(conversation_id), is_ours=False)
        return erasing.told()
    registry, traces = api.hub.registry, api.hub.traces
    name = api.hub.session(checked_session_id(session))
    holder = await api.lock(str(name))
    try:
        row = await api.ask(registry.get, name)
        await forget_waiting(api, session)
        now = () if row is None else (row.conversation_id,)
        for one in dict.fromkeys((*await api.ask(traces.former, name), *now)):
            if await erasing.conversation(api, one, is_ours=True):
                await api.ask(traces.forget_former, name, one)
                if one in now:
                    await api.ask(registry.unbind, name)
    finally:
        holder.release()
    return erasing.told()


async def forget_waiting(api: Api, key: str) -> None:
    """Forgets all that waits to be sent under a key, whoever was to send it."""
    registry, session = api.hub.registry, api.hub.session(key)
    if isinstance(registry, Outbox):
        rows = await api.ask(registry.waiting, session)
        await api.ask(registry.withdraw, session, [row.number for row in rows])


async def note_response(api: Api, conversation_id: str | None, response_id: str | None) -> None:
    """Notes a response that the service has stored, so that it can be erased.

    A registry that fails does not fail the turn, which was taken.
    """
    if not conversation_id or not response_id:
        return
    hub = api.hub
    try:
        await api.ask(hub.traces.note_response, hub.base_url, conversation_id, response_id)
    except RegistryError as error:
        logger.warning("response %s is not noted, so nothing will erase it: %s", response_id, error)


@dataclass(slots=True)
class _Erasing:
    """What has been deleted so far, and what is left."""

    conversations: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    in_vain: int = 0

    def told(self) -> Erased:
        """What it came to."""
        return Erased(
            tuple(self.conversations), tuple(self.items), tuple(self.responses), tuple(self.left)
        )

    async def conversation(self, api: Api, conversation_id: str, *, is_ours: bool) -> bool:
        """Deletes a conversation with all that it has; returns whether all of it is gone.

        Args:
            api: What is awaited.
            conversation_id: The conversation.
            is_ours: Whether that is known. If not, and the service does not show it, it may be
                another account's: then what the registry has of it stays.
        """
        holder = await api.lock(conversation_id)
        hub, before = api.hub, len(self.left)
        try:
            items = await self._listed(api, conversation_id)
            is_there = items is not None
            for item in items or ():
                if await self._delete(api, "item", item.id or "", conversation_id):
                    self.items.append(item.id or "")
            known = await api.ask(hub.traces.responses, hub.base_url, conversation_id)
            gone = [
                one for one in known if await self._delete(api, "response", one, conversation_id)
            ]
            self.responses += gone
            if is_there:
                await self._delete_itself(api, conversation_id, before)
            is_gone = len(self.left) == before
            if is_gone:
                self.conversations.append(conversation_id)
            if is_ours or is_there:
                await _forget(api, conversation_id, gone)
        finally:
            hub.ledger.forget(conversation_id)
            holder.release()
        return is_gone

    async def _listed(self, api: Api, conversation_id: str) -> Sequence[Item] | None:
        """The conversation's items; `None` if it is not there.

        If they cannot be read to their end, those that were read.
        """
        found: list[Item] = []
        try:
            pages = Pages(conversation_id)
            while (page := await pages.next(api)) is not None:
                found += page
        except ConversationNotFoundError:
            return None
        except QwenConvError as error:
            self._leave("items", conversation_id, conversation_id, error)
        return found

    async def _delete_itself(self, api: Api, conversation_id: str, before: int) -> None:
        if len(self.left) > before:
            error = ServiceFailedError(
                Failure("It is kept, for something of it could not be deleted: erase it again")
            )
            self._leave("conversation", conversation_id, conversation_id, error)
            return
        await self._delete(api, "conversation", conversation_id, conversation_id)

    async def _delete(self, api: Api, kind: Kind, thing_id: str, conversation_id: str) -> bool:
        """Deletes one thing; returns whether it is gone.

        If it is said not to be there, that is checked: deleting a response is documented for one
        region only, and elsewhere nothing may be found at the address although the response is
        there.
        """
        delete, look = _CALLS[kind]
        names = (conversation_id, thing_id) if kind == "item" else (thing_id,)
        if self.in_vain >= _PATIENCE:
            self._leave(kind, thing_id, conversation_id, self.left[-1].error)
            return False
        try:
            try:
                await api.send(delete(*names))
            except NotFoundError:
                await _check_gone(api, look(*names))
        except QwenConvError as error:
            self._leave(kind, thing_id, conversation_id, error)
            return False
        self.in_vain = 0
        return True

    def _leave(self, kind: Kind, thing_id: str, conversation_id: str, error: QwenConvError) -> None:
        if isinstance(error, NoReplyError | KeyRefusedError):
            self.in_vain += 1
        self.left.append(Left(kind, thing_id, conversation_id, error))


async def _check_gone(api: Api, look: Call[Any]) -> None:
    try:
        await api.send(look)
    except NotFoundError as error:
        if type(error) is NotFoundError:
            raise  # there is nothing at the address, whatever is asked for
        return
    raise ServiceFailedError(
        Failure("The service says that it has nothing to delete there, and still shows it")
    )


async def _forget(api: Api, conversation_id: str, responses: Sequence[str]) -> None:
    """Forgets what the registry has of a conversation."""
    hub = api.hub
    if responses:
        await api.ask(hub.traces.forget_responses, hub.base_url, conversation_id, responses)
    if isinstance(hub.registry, Overlays):
        await api.ask(hub.registry.forget_overlays, hub.base_url, conversation_id)

"""The seal of a conversation's encodings, in its metadata: kept there, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qwen_conv.api import Api
from qwen_conv.calls import RetrieveConversation, RetrieveItem, UpdateConversation
from qwen_conv.encodings import RESERVED, Seal, decode
from qwen_conv.errors import UsageError
from qwen_conv.items import Message
from qwen_conv.limits import METADATA_VALUE_CHARS


async def keep_seal(
    api: Api, conversation_id: str, metadata: Mapping[str, str], seal: Seal
) -> None:
    """Writes a seal into a conversation's metadata, beside what is there."""
    value = " ".join([seal.secret, *sorted(seal.void)])
    if len(value) > METADATA_VALUE_CHARS:
        raise UsageError(
            f"{len(seal.void) - 1} encoded messages were deleted one by one, and the metadata has "
            "no room to void more of them: clear the history, or delete it."
        )
    await api.send(UpdateConversation(conversation_id, {**metadata, RESERVED: value}))


async def void(api: Api, conversation_id: str, once: Iterable[str]) -> None:
    """Makes encodings worthless: they are about to be deleted, and may have been repeated."""
    told = (await api.send(RetrieveConversation(conversation_id))).metadata
    if seal := Seal.of(told):
        await _void(api, conversation_id, told, seal, once)


async def void_item(api: Api, conversation_id: str, item_id: str) -> None:
    """Makes one encoding worthless, given the item that it is."""
    item = await api.send(RetrieveItem(conversation_id, item_id))
    told = (await api.send(RetrieveConversation(conversation_id))).metadata
    seal = Seal.of(told)
    if seal is None or not isinstance(item, Message):
        return
    if decoded := decode(item, seal.secret, api.hub.clock()):
        await _void(api, conversation_id, told, seal, [decoded.once])


async def _void(
    api: Api, conversation_id: str, metadata: Mapping[str, str], seal: Seal, once: Iterable[str]
) -> None:
    seal = seal._replace(void=seal.void.union(once))
    await keep_seal(api, conversation_id, metadata, seal)

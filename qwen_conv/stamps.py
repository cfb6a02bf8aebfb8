"""A stamp says where a message is stored. It travels with the message, and is only a claim.

A stamp never selects a conversation: a list of messages may come from a client, which can write
into it what it likes. It is read only for a conversation that was selected otherwise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from qwen_conv.items import Fingerprint
from qwen_conv.limits import ITEM_LIFETIME, is_id

VERSION = 1


class Stamp(NamedTuple):
    """Where a message is: on an answer, what its turn sent as well.

    Attributes:
        base_url: The service that holds the conversation.
        conversation_id: The conversation; `""` if responses follow each other without one.
        response_id: The response that the message answers in; `None` if it was read from a list.
        item_ids: The items that the message is, in order.
        at: When it was stored, in seconds since 1970.
        sent: What the turn sent, in order.
        said: What the message itself says.
        after: The response or item that the conversation ended with before the turn; `""` if it
            was empty; `None` if that was not known.
        encoded: Whether it is stored as a message that stands for tool calls or a result.
        seal: What only who has the API key can make of the rest; see `qwen_conv.chains`.
    """

    base_url: str
    conversation_id: str
    response_id: str | None
    item_ids: tuple[str, ...]
    at: float
    sent: tuple[Fingerprint, ...] = ()
    said: tuple[Fingerprint, ...] = ()
    after: str | None = None
    encoded: bool = False
    seal: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id that names the place, the response's first."""
        return (self.response_id, *self.item_ids) if self.response_id else self.item_ids

    def expired(self, now: float) -> bool:
        """Whether the service has forgotten the message by `now` (seconds since 1970)."""
        return now >= self.at + ITEM_LIFETIME

    def to_dict(self) -> dict[str, Any]:
        """The stamp as JSON, to travel in a message's metadata."""
        return {
            "v": VERSION,
            "base_url": self.base_url,
            "conversation_id": self.conversation_id,
            "response_id": self.response_id,
            "item_ids": list(self.item_ids),
            "at": self.at,
            "sent": list(self.sent),
            "said": list(self.said),
            "after": self.after,
            **({"encoded": True} if self.encoded else {}),
            **({"seal": self.seal} if self.seal else {}),
        }

    @classmethod
    def from_dict(cls, told: object) -> Stamp | None:
        """The stamp that a piece of JSON is, or `None`: what is no stamp proves nothing."""
        match told:
            case {
                "v": 1,
                "base_url": str(base_url),
                "conversation_id": str(conversation_id),
                "response_id": str() | None as response_id,
                "item_ids": [*item_ids],
                "at": float() | int() as at,
                "sent": [*sent],
                "said": [*said],
                "after": str() | None as after,
                **more,
            } if all(isinstance(one, str) for one in (*sent, *said)) and all(
                map(is_id, (*item_ids, *filter(None, (response_id, after))))
            ):
                return cls(
                    base_url,
                    conversation_id,
                    response_id,
                    tuple(item_ids),
                    at,
                    tuple(sent),
                    tuple(said),
                    after,
                    more.get("encoded") is True,
                    seal if isinstance(seal := more.get("seal"), str) else "",
                )
        return None

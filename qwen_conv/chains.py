"""The second way to keep context: each turn follows the response of the last one.

There is no conversation: a response holds what was said up to it, for seven days, and never
changes. So a list of messages may go back and branch wherever it likes: a turn follows the last
answer of the list up to which nothing was changed.

Which answer that is, the stamps say, and the list may come from a client. So a chain's stamp
carries a seal that only who has the API key can make: nobody gets at a response by naming its id.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

from qwen_conv.decision import last_stamped, verified
from qwen_conv.local import Entry, LocalList
from qwen_conv.stamps import Stamp

NOWHERE = ""
"""What a chain's stamps have for a conversation's id."""


class Following(NamedTuple):
    """What a turn follows.

    Attributes:
        send: The messages to send; none if the list ends with the answer that is followed.
        response_id: The response to follow; `None`: the chain begins with this turn.
        changed: Why that is not the last answer of a chain in the list; `""` if it is.
        expired: Whether the service has forgotten an answer of the list.
    """

    send: tuple[Entry, ...]
    response_id: str | None
    changed: str = ""
    expired: bool = False


def follow(
    local: LocalList, *, base_url: str, secret: str, now: float, checks: bool = True
) -> Following:
    """Which response a turn follows, and what it sends.

    Args:
        local: The caller's messages, oldest first.
        base_url: The service.
        secret: The API key.
        now: Seconds since 1970.
        checks: Whether what stands before an answer has to be what its response was given.
    """
    entries = tuple(
        entry if entry.stamp is None or is_sealed(entry.stamp, secret) else Entry(entry.items)
        for entry in local.entries()
    )
    changed, expired = "", False
    anchor = last_stamped(entries, base_url, NOWHERE)
    while anchor >= 0:
        stamp = entries[anchor].stamp
        assert stamp is not None  # noqa: S101 - what an anchor is
        found = verified(entries, anchor, now, whole=False) if checks else True
        if found is True and stamp.response_id:
            return Following(entries[anchor + 1 :], stamp.response_id, changed, expired)
        changed = changed or (found if isinstance(found, str) else "nothing vouches for a message")
        expired = expired or stamp.expired(now)
        anchor = last_stamped(entries[:anchor], base_url, NOWHERE)
    return Following(entries, None, changed, expired)


def sealed(stamp: Stamp, secret: str) -> Stamp:
    """The stamp with its seal."""
    return stamp._replace(seal=_seal(stamp, secret))


def is_sealed(stamp: Stamp, secret: str) -> bool:
    """Whether somebody with the key has made the stamp."""
    return stamp.seal.isascii() and compare_digest(stamp.seal, _seal(stamp, secret))


def _seal(stamp: Stamp, secret: str) -> str:
    told = json.dumps(stamp._replace(seal="").to_dict(), sort_keys=True)
    key = blake2b(secret.encode(), person=b"qwen-conv chain").digest()
    return blake2b(told.encode(), key=key, digest_size=16).hexdigest()

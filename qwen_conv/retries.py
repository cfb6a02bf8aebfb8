"""When a request is sent again that certainly was not carried out."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from qwen_conv.errors import (
    ConversationLockedError,
    NotConnectedError,
    QwenConvError,
    RateLimitedError,
)

if TYPE_CHECKING:
    from tenacity.wait import wait_base

    from qwen_conv.api import Api, Patience
    from qwen_conv.calls import Call

T = TypeVar("T")

PASSING = (NotConnectedError, ConversationLockedError, RateLimitedError)
"""After one of these the request was not carried out, and may be sent again later."""


FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
"""Seconds, without the part that is random; each pause is twice the last."""


async def sent_again(api: Api, call: Call[T]) -> T:
    """Sends a call that must not be carried out twice, again while it certainly was not once.

    Raises:
        ServiceError: The service refused.
        NoReplyError: It did not answer.
    """
    since, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            return await api.send(call)
        except PASSING as error:
            seconds = pause(error, tries, time.monotonic() - since, api.patience)
            if seconds is None:
                raise
        await api.sleep(seconds)


def pause(error: QwenConvError, tries: int, waited: float, patience: Patience) -> float | None:
    """Seconds to wait before the request is sent again; `None` if it is not to be.

    Args:
        error: Why it was not carried out.
        tries: How often it was sent.
        waited: Seconds since it was first sent.
        patience: How often it may be sent again, and within how many seconds.
    """
    if tries > patience.retries:
        return None
    told: float | None = getattr(error, "retry_after", None)
    seconds = _grown(tries) if told is None else told
    return seconds if waited + seconds <= patience.seconds else None


def _grown(tries: int) -> float:
    """A pause that grows with each try, and differs between those that were refused at once."""
    from tenacity import RetryCallState, Retrying

    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = tries
    return _growing(FIRST_PAUSE)(state)


@cache
def _growing(first: float) -> wait_base:
    from tenacity import wait_exponential, wait_random

    return wait_exponential(multiplier=first, max=LONGEST_PAUSE) + wait_random(0.0, first)

"""How a request whose reply was lost is looked for: again and again, for services store late."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from qwen_conv.api import Api
from qwen_conv.errors import ServiceError, UnreadableError

T = TypeVar("T")

AFTER_FAILURE = 1.0
"""Seconds within which a service stores what it was asked, once its stream told of a failure."""

_GATEWAYS = frozenset({408, 502, 504})
"""What speaks there may stand before the service, and does not know what became of the request
(RFC 9110, sections 15.5.9, 15.6.3 and 15.6.5)."""


def has_failed(failure: BaseException | None) -> bool:
    """Whether the service itself says that a request failed: nobody will answer it."""
    return (
        isinstance(failure, ServiceError)
        and not isinstance(failure, UnreadableError)
        and failure.status not in _GATEWAYS
    )


def may_come(failure: BaseException) -> bool:
    """Whether anything of a request that failed so may be stored yet.

    A service that says that it failed, knows; what else there is to find may come late. So may what
    was asked where it fails in the middle of a stream: SMG 1.13 stores that after the last event.
    """
    return not has_failed(failure) or getattr(failure, "response_id", None) is not None


def lateness(failure: BaseException | None, settle_timeout: float) -> float:
    """Seconds within which something may be stored of a request that failed so, or was left."""
    if failure is not None and not may_come(failure):
        return 0.0
    return longest(settle_timeout, after_failure=has_failed(failure))


def longest(settle_timeout: float, *, after_failure: bool) -> float:
    """Seconds for which to look for what may be stored late."""
    return min(settle_timeout, AFTER_FAILURE) if after_failure else settle_timeout


async def look_again(
    api: Api,
    look: Callable[[], Awaitable[T]],
    *,
    is_found: Callable[[T], bool],
    seconds: float,
    passing: tuple[type[Exception], ...] = (),
) -> T:
    """Looks until it is found, or the time is over; the last look begins no sooner.

    Args:
        api: What is awaited.
        look: One look.
        is_found: Whether what a look has found is the end of it.
        seconds: How long to look again; 0 or less: one look.
        passing: Failures of a look, after which the next one may succeed.

    Returns:
        What the last look has found.

    Raises:
        Exception: What the last look has raised.
    """
    from tenacity import (
        AsyncRetrying,
        RetryCallState,
        retry_if_exception_type,
        retry_if_result,
        wait_exponential,
    )

    until, begun = time.monotonic() + seconds, 0.0
    growing = wait_exponential(multiplier=0.05, max=1.0)

    async def timed() -> T:
        nonlocal begun
        begun = time.monotonic()
        return await look()

    def as_it_is(last: RetryCallState) -> T:
        assert last.outcome is not None  # noqa: S101 - there was a look
        found: T = last.outcome.result()
        return found

    looks = AsyncRetrying(
        sleep=api.sleep,
        stop=lambda _: begun >= until,
        wait=lambda state: min(growing(state), max(0.0, until - time.monotonic())),
        retry=retry_if_result(lambda found: not is_found(found)) | retry_if_exception_type(passing),
        retry_error_callback=as_it_is,
    )
    found: T = await looks(timed)
    return found

"""Whether there is an event loop, and threads for short calls that it must not wait for."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache


def threads() -> ThreadPoolExecutor:
    """The threads of this process for what may block, such as a registry's steps.

    They are not those of `asyncio.to_thread`: there, turns of others may wait for the very turn
    that waits for such a call.
    """
    return _of(os.getpid())  # a forked process has none of its parent's threads


@cache
def _of(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - one for each process
    return ThreadPoolExecutor(thread_name_prefix="qwen-conv registry")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

"""One turn at a time, in the order of asking, for threads and tasks alike."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from qwen_conv.errors import ConversationBusyError
from qwen_conv.locks import TurnLock, TurnLocks


def test_threads_and_tasks_never_hold_it_at_once():
    lock, inside, most = TurnLock(), [], []

    def enter():
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    def thread():
        for _ in range(200):
            holder = lock.acquire()
            enter()
            holder.release()

    async def task():
        for _ in range(50):
            holder = await lock.acquire_async()
            inside.append(1)
            await asyncio.sleep(0)
            most.append(len(inside))
            inside.pop()
            holder.release()

    async def tasks():
        await asyncio.gather(*[task() for _ in range(8)])

    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(thread) for _ in range(4)]
        done += [pool.submit(asyncio.run, tasks()) for _ in range(2)]
        for one in done:
            one.result(timeout=60)
    assert set(most) == {1}


def test_those_who_wait_get_it_in_the_order_of_asking():
    async def main():
        lock, order = TurnLock(), []
        first = await asyncio.create_task(lock.acquire_async())

        async def turn(number):
            holder = await lock.acquire_async()
            order.append(number)
            holder.release()

        waiting = []
        for number in range(5):
            waiting.append(asyncio.create_task(turn(number)))
            await asyncio.sleep(0)  # it asks, and waits
        first.release()
        await asyncio.gather(*waiting)
        return order

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_a_cancelled_task_leaves_no_lock_behind(cancelled):
    async def main():
        lock = TurnLock()
        first = await asyncio.create_task(lock.acquire_async())

        async def turn():
            (await lock.acquire_async()).release()

        waiting = [asyncio.create_task(turn()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[cancelled].cancel()
        first.release()
        await asyncio.gather(*waiting, return_exceptions=True)
        (await asyncio.wait_for(lock.acquire_async(), 5)).release()

    asyncio.run(main())


def test_a_task_cancelled_in_the_moment_it_is_handed_the_lock_hands_it_on():
    async def main():
        lock = TurnLock()
        first = await asyncio.create_task(lock.acquire_async())

        async def turn():
            (await lock.acquire_async()).release()

        waiting = asyncio.create_task(turn())
        await asyncio.sleep(0)
        first.release()  # it is its turn now, but it has not run yet
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        (await asyncio.wait_for(lock.acquire_async(), 5)).release()

    asyncio.run(main())


def test_a_thread_that_would_wait_for_itself_is_told_so():
    lock = TurnLock()
    holder = lock.acquire()
    with pytest.raises(ConversationBusyError, match="right here"):
        lock.acquire()
    holder.release()
    lock.acquire().release()


def test_a_task_that_would_wait_for_itself_is_told_so_also_through_a_task_of_its_own():
    async def main():
        lock = TurnLock()
        holder = await lock.acquire_async()
        with pytest.raises(ConversationBusyError):
            await lock.acquire_async()
        with pytest.raises(ConversationBusyError):
            await asyncio.create_task(lock.acquire_async())
        holder.release()

    asyncio.run(main())


def test_a_blocking_call_that_would_stop_the_loop_of_the_holder_is_told_so():
    async def main():
        lock = TurnLock()
        holder = await asyncio.create_task(lock.acquire_async())

        async def blocking():
            lock.acquire()

        with pytest.raises(ConversationBusyError):
            await asyncio.create_task(blocking())
        holder.release()

    asyncio.run(main())


def test_another_thread_waits_for_a_stream_that_moved_on_to_a_third():
    lock, took = TurnLock(), threading.Event()
    holder = lock.acquire()

    def wait():
        lock.acquire().release()
        took.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    threading.Thread(target=holder.release).start()
    waiting.join(10)
    assert took.is_set()


def test_releasing_twice_does_no_harm():
    lock = TurnLock()
    first = lock.acquire()
    first.release()
    second = lock.acquire()
    first.release()
    with pytest.raises(ConversationBusyError):
        lock.acquire()
    second.release()


def test_locks_that_nobody_uses_are_forgotten():
    locks = TurnLocks()
    holder = locks.of("conv_1").acquire()
    assert locks.of("conv_1") is holder.lock
    holder.release()
    del holder
    gc.collect()
    assert len(locks._locks) == 0

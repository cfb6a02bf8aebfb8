"""Lives a story: does its steps, and after an error what a sensible user does."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from difflib import unified_diff

from chaos.drivers import Driver, LeftError
from chaos.faults import KINDS, PATIENCE
from chaos.judge import Verdict, judged
from chaos.ledger import Ledger
from chaos.marks import Mark, question
from chaos.plan import Step, Story
from chaos.server import ChaosServer, Door
from qwen_conv import errors

_MOST = 200
"""Characters of an error that are reported."""

TRIES = 9
"""How often a step is tried before it is given up."""


class User:
    """Lives one story with a driver.

    Args:
        driver: What takes the turns.
        server: Where they are taken.
        door: The port that they are taken by, if it is one of their own.
    """

    def __init__(self, driver: Driver, server: ChaosServer, door: Door | None) -> None:
        self.driver = driver
        self.story: Story = driver.story
        self.ledger = Ledger()
        self._server = server
        self._door = door
        self._expected: list[str] = []
        self._counts = self.ledger.takers.setdefault(self.story.title, Counter())
        self._now = ""
        self._log: list[str] = []
        self._wrong: Counter[str] = Counter()

    async def live(self) -> Ledger:
        """Does every step, and has the conversation judged."""
        try:
            await self.driver.open()
            for number, step in enumerate(self.story.steps):
                await self._do(Mark(self.story.number, number), step)
        except Exception:  # noqa: BLE001 - told in the ledger
            self._note("the story ended: " + traceback.format_exc())
            self._wrong["given up"] += 1
        await self._wait(self._server.at_rest(self.story.number))
        self._server.disarm(self.story.number)
        self._judge()
        return self.ledger

    # --- Steps ------------------------------------------------------------------------------------

    async def _do(self, mark: Mark, step: Step) -> None:
        driver = self.driver
        match step.does:
            case "ask":
                text = question(mark, by_tool=step.by_tool, at_length=step.at_length)
                await driver.begin(text)
                done = await self._tried(mark, step, driver.proceed)
                self._counts["turns"] += 1
            case "write":
                await driver.begin_writing(mark, step.messages)
                done = await self._tried(mark, step, driver.write)
            case "read":
                await self._tried(mark, step, self._read)
                return
        if done:
            self._expected += driver.lines

    async def _read(self) -> None:
        verdict = judged(self._expected, await self.driver.read())
        if not verdict:
            self._note(f"read something else than is held: {str(verdict)[:_MOST]}")
            self._add(verdict)

    async def _tried(self, mark: Mark, step: Step, attempt: Callable[[], Awaitable[None]]) -> bool:
        """Tries a step until it is done; whether it is."""
        kind = step.faults[0].kind
        self.ledger.count(kind, "drawn")
        sent = self._server.turns[self.story.number]
        await self._prepare(mark, step)
        errors_met = doubts = 0
        for number in range(TRIES):
            if number and not self._server.is_armed(self.story.number):
                self.driver.wait_for(None)
            try:
                await attempt()
                break
            except LeftError:
                doubts += 1
                self._note("left the stream")
                await self._wait(self._server.at_rest(self.story.number))
                if await self._settled(step):
                    break
            except errors.UndecidedError as error:
                doubts += 1
                self._met(error)
                self.ledger.count(kind, "undecided")
                # A user comes back when the service has come to rest: nobody knows better before.
                await self._wait(self._server.at_rest(self.story.number))
                if await self._settled(step):
                    break
            except Exception as error:  # noqa: BLE001 - sorted here
                errors_met += 1
                self._met(error)
                self.ledger.count(kind, "failed")
                if not doubts:  # if there are any, they were reported
                    self._check_reported(mark, error)
                await self._sleep(0.05 * 2**number)
        else:
            self._note("given up")
            self._wrong["given up"] += 1
            self.ledger.count(kind, "given up")
            return False
        self.driver.wait_for(None)
        if self._server.disarm(self.story.number):
            self.ledger.count(kind, "missed")
        elif not errors_met and not doubts:
            again = self._server.turns[self.story.number] - sent > 1 + step.by_tool
            found = "found" if KINDS[kind].loses else "at once"
            self.ledger.count(kind, "resent" if again else found)
        for _ in range(doubts):
            self.ledger.count(kind, "settled")
        return True

    async def _prepare(self, mark: Mark, step: Step) -> None:
        """Has the step's faults wait for it."""
        happens = " and ".join(fault.kind for fault in step.faults)
        self._now = f"{mark}, {step.does}, {happens}: "
        for fault in step.faults:
            kind = KINDS[fault.kind]
            if fault.kind.startswith("timed out"):
                self.driver.wait_for(PATIENCE)
            match kind.target:
                case "door":
                    assert self._door is not None  # noqa: S101 - such a story has one
                    await self._wait(self._server.submit(self._door.shut_for(fault.seconds)))
                case "consumer":
                    self.driver.leaves_after = int(fault.moment * 6)
                case _:
                    self._server.arm(self.story.number, fault)

    async def _settled(self, step: Step) -> bool:
        """Settles a doubt by hand, if the plan wants it so; whether the turn is over with that."""
        by_hand = self.driver.settles_by_hand
        if not (step.by_hand if by_hand is None else by_hand):
            return False
        try:
            state = await self.driver.settle()
            self._note(f"settled by hand: {state}")
            return state == "answered" and await self.driver.take_up()
        except errors.QwenConvError as error:
            self._note(f"settling failed: {error!r}")
            return False

    # --- What went wrong --------------------------------------------------------------------------

    def _met(self, error: Exception) -> None:
        self.ledger.errors[type(error).__name__] += 1
        told = f"{type(error).__name__}: {str(error)[:_MOST]}"
        if not isinstance(error, errors.QwenConvError):
            told += "\n" + "".join(traceback.format_exception(error))
        self._note(told)

    def _check_reported(self, mark: Mark, error: Exception) -> None:
        """An error that leaves no doubt says that there is no answer."""
        if any(one.startswith(f"assistant: answer {mark}:") for one in self._held()):
            self._note(f"the answer is stored, which the error did not say: {error!r}")
            self._wrong["unreported"] += 1

    def _held(self) -> list[str]:
        conversation_id = self.driver.conversation_id
        return self._server.said(conversation_id) if conversation_id else []

    def _note(self, told: str) -> None:
        self._log.append(f"{self._now}{told}")

    def _add(self, verdict: Verdict) -> None:
        self._wrong["lost"] += len(verdict.lost)
        self._wrong["doubled"] += len(verdict.doubled)
        self._wrong["misplaced"] += len(verdict.misplaced)
        self._wrong["foreign"] += len(verdict.foreign)

    def _judge(self) -> None:
        held = self._held()
        verdict = judged(self._expected, held)
        self._add(verdict)
        self.ledger.wrong.update(self._wrong)
        self._counts.update(self._wrong)
        if self._wrong.total():
            self.ledger.reports.append((self.story.number, self._report(held)))

    def _report(self, held: Sequence[str]) -> str:
        """What happened, and what the conversation holds otherwise than was told."""
        differs = unified_diff(self._expected, held, "told", "held", n=2, lineterm="")
        wrong = ", ".join(f"{count} {what}" for what, count in self._wrong.items() if count)
        return "\n  ".join(
            [f"story {self.story.number}: {self.story.told}: {wrong}", *self._log, *differs]
        )

    # --- Waiting, in threads and in tasks ---------------------------------------------------------

    async def _wait(self, future: Future[None]) -> None:
        if self.story.in_tasks:
            await asyncio.wrap_future(future)
        else:
            future.result()

    async def _sleep(self, seconds: float) -> None:
        if self.story.in_tasks:
            await asyncio.sleep(seconds)
        else:
            time.sleep(seconds)  # noqa: ASYNC251 - a thread of its own drives this

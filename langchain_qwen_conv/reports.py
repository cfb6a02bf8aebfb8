"""Turns that models take inside a run of `RunnableWithMessageHistory`, reported to its history.

At the end of a run LangChain adds its input and output to the history, whose conversation may
hold both by then: that goes by what was reported, not by what they say.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.root_listeners import AsyncRootListenersTracer, RootListenersTracer
from langchain_core.tracers.schemas import Run

if TYPE_CHECKING:
    from langchain_qwen_conv.chat_history import QwenConvChatMessageHistory
    from qwen_conv.hub import QwenConversations
    from qwen_conv.record import Record
    from qwen_conv.turn import Outcome, TurnRequest

MESSAGE_HISTORY = "message_history"
"""Where `RunnableWithMessageHistory` puts the history, in `config["configurable"]`."""


@dataclass(eq=False)
class Report:
    """A turn of a run: what is to be sent, and what it came to once that is known."""

    run: Run | None
    request: TurnRequest
    outcome: Outcome | None = None

    @property
    def is_open(self) -> bool:
        """Whether the turn goes on, and nobody else can change its conversation."""
        has_conversation = self.request.conversation_id or self.request.session
        return self.outcome is None and has_conversation is not None


class Reports:
    """The turns of the runs whose messages were not added yet."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._mutex = threading.Lock()
        self._reports: list[Report] = []

    def of_run(self, run: Run) -> list[Report]:
        """The turns of a run, in order."""
        return [report for report in self._reports if report.run is run]

    def is_open(self) -> bool:
        """Whether a run goes on that took a turn, or ended just now."""
        return any(report.run and report.run.error is None for report in self._reports)

    def begin(self, run: Run, request: TurnRequest, *, attached: bool, goes_on: bool) -> Report:
        """Notes that a model is about to take a turn.

        One turn of a run belongs to the conversation, and those that bring the results of its tool
        calls; any other is sent on no conversation, as is one whose list has diverged, and all of
        them where the last run came to something else.
        """
        ledger, target = self._record.hub.ledger, self._record.target
        with self._mutex:
            outside = self.of_run(run) or ledger.is_written_outside(target)
            if attached and outside and not goes_on:
                attached = False
                request = request._replace(conversation_id=None, session=None)
            elif attached and request.on_divergence is None:
                request = request._replace(on_divergence="stateless")
            report = Report(run, request._replace(is_reread=True))
            self._reports.append(report)
        return report

    def drop(self, *reports: Report) -> None:
        """Forgets turns."""
        with self._mutex:
            self._reports = [one for one in self._reports if one not in reports]

    def take_ended(self, fits: Callable[[Report], int]) -> list[Report]:
        """The turns of the run that ended, and well; they are then forgotten.

        Of several runs it is the one with the turn that `fits` best, the last of equals. Runs
        that failed are forgotten, too: LangChain adds nothing for them.
        """
        with self._mutex:
            live = [report for report in self._reports if report.run and not report.run.error]
            ended = [report for report in live if report.run and report.run.end_time is not None]
            best = max(reversed(ended), key=fits, default=None)
            found = [report for report in ended if best and report.run is best.run]
            self._reports = [report for report in live if report not in found]
        return found


class HistoryRun:
    """A run of `RunnableWithMessageHistory` whose messages will be added to a history of ours."""

    def __init__(
        self,
        history: QwenConvChatMessageHistory,
        tracer: RootListenersTracer | AsyncRootListenersTracer,
    ) -> None:
        self.history = history
        self._tracer = tracer

    @property
    def run(self) -> Run | None:
        """The run, once it has begun: it may be the model's own."""
        return self._tracer.run_map.get(str(self._tracer.root_id))

    def __repr__(self) -> str:
        return "HistoryRun()"  # always the same: LangChain's cache of answers goes by it

    @classmethod
    def of(cls, config: RunnableConfig) -> HistoryRun | None:
        """The run that a call's config belongs to, if it does."""
        history: Any = (config.get("configurable") or {}).get(MESSAGE_HISTORY)
        if not hasattr(history, "reports"):
            return None
        callbacks: Any = config.get("callbacks")
        for handler in reversed(getattr(callbacks, "handlers", callbacks) or ()):
            if (
                isinstance(handler, RootListenersTracer | AsyncRootListenersTracer)
                and handler.config.get("configurable", {}).get(MESSAGE_HISTORY) is history
            ):
                return cls(cast("QwenConvChatMessageHistory", history), handler)
        return None


@contextmanager
def reported(
    found: HistoryRun | None,
    hub: QwenConversations,
    request: TurnRequest,
    messages: Sequence[BaseMessage],
) -> Iterator[Report]:
    """Reports the turn that is taken inside, if it is one of a run with a history of ours."""
    run = found.run if found else None
    if found is None or run is None:
        yield Report(None, request)
        return
    reports = found.history.reports
    attached = found.history.is_target(hub, request)
    goes_on = isinstance(messages[-1], ToolMessage)
    report = reports.begin(run, request, attached=attached, goes_on=goes_on)
    try:
        yield report
    except BaseException:
        reports.drop(report)
        raise

"""The mirrors of a hub, by key; and that what waits in them is written at last.

What waits is written by the turn that takes it. Otherwise by whoever comes first: the next message
that no turn can take, `close`, a thread that looks after what has waited long enough, or the end of
the interpreter.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from qwen_conv.api import finish
from qwen_conv.mirror import Mirror

if TYPE_CHECKING:
    from qwen_conv.held import Form
    from qwen_conv.hub import QwenConversations

logger = logging.getLogger("qwen_conv")

PATIENCE = 60.0
"""Seconds that a message waits for a turn to take it."""

MOST = 1_000
"""Mirrors that a hub keeps, the most recently used; others live as long as somebody has a message
that was read from them, and are read anew after that."""

_WATCHED: set[Mirrors] = set()
"""Those in which something may wait: they must not be collected before it is written."""


class Mirrors:
    """The mirrors of a hub. Safe to use from any thread."""

    def __init__(self, hub: QwenConversations) -> None:
        self._hub = hub
        self._mutex = threading.Lock()
        # A message that was read from a mirror refers to it, so a key has one mirror at a time.
        self._mirrors: WeakValueDictionary[str, Mirror] = WeakValueDictionary()
        self._recent: OrderedDict[str, Mirror] = OrderedDict()
        self._began: dict[str, float] = {}
        self._woken = threading.Event()
        self._sleeps_until = 0.0
        self.turns_expected = False
        """Whether a model shares the hub: only then a turn may take what a store is handed."""

    def of(self, key: str, form: Form) -> Mirror:
        """The mirror of that key.

        Raises:
            UsageError: The key cannot name a session.
        """
        with self._mutex:
            found = self._mirrors.get(key)
            if found is None:
                found = self._mirrors[key] = Mirror(self._hub, key, form)
                found.used_since = self._began.get(key)
            self._recent[key] = found
            self._recent.move_to_end(key)
            if len(self._recent) > MOST:
                idle = next((name for name, each in self._recent.items() if each.is_idle), key)
                if idle != key:
                    self._note_use(self._recent.pop(idle))
            return found

    def find(self, key: str) -> Mirror | None:
        """The mirror of that key, if anybody has asked for it."""
        return self._mirrors.get(key)

    def forget(self, key: str) -> None:
        """Has the key's conversation be forgotten; what waits still waits."""
        if (found := self._mirrors.get(key)) is not None:
            found.forget()

    def forget_erased(self, key: str, conversation_ids: Collection[str]) -> None:
        """Has a key and conversations be forgotten, under whatever key those are held."""
        with self._mutex:
            self._began.pop(key, None)
            held = [*self._mirrors.values()]
        for each in held:
            if each.conversation_id in conversation_ids:
                each.forget()

    def keys(self) -> list[str]:
        """Every key that messages were put under, the first of them first.

        Raises:
            RegistryError: The registry fails.
        """
        hub = self._hub
        mine = (hub.base_url, hub.account)
        began = {
            row.session.key: row.created
            for row in hub.registry.sessions(hub.namespace)
            if (row.session.base_url, row.session.account) == mine
        }
        with self._mutex:
            for each in self._mirrors.values():
                self._note_use(each)
            used = dict(self._began)
        for key, begun in used.items():
            began[key] = min(begun, began.get(key, begun))
        return sorted(began, key=lambda key: began[key])

    def _note_use(self, mirror: Mirror) -> None:
        if mirror.used_since is None:
            self._began.pop(mirror.key, None)
        else:
            self._began[mirror.key] = mirror.used_since

    def watch(self, key: str) -> None:
        """Has what waits under that key be written in time, if anything does."""
        with self._mutex:
            found = self._mirrors.get(key)
            due = None if found is None else found.due
            if due is None:
                return
            if self in _WATCHED:
                if due < self._sleeps_until:
                    self._woken.set()
                return
            _WATCHED.add(self)
        threading.Thread(target=self._look_after, name="qwen-conv outbox", daemon=True).start()

    def flush(self) -> None:
        """Writes all that waits.

        Raises:
            QwenConvError: Something could not be written; it still waits.
        """
        failed: Exception | None = None
        for each in self._all():
            try:
                finish(each.flush(self._hub.sync()))
                finish(each.keep(self._hub.sync()))
            except Exception as error:  # noqa: BLE001 - the others are written first
                failed = failed or error
        self._woken.set()
        if failed is not None:
            raise failed

    def _look_after(self) -> None:
        while (due := self._due()) is not None:
            self._woken.wait(max(0.0, due - self._hub.clock()))
            self._woken.clear()
            for each in self._all():
                try:
                    finish(each.flush(self._hub.sync(), only_due=True))
                except Exception:
                    logger.exception("what waits for a turn could not be written; it still waits")
                    self._woken.wait(PATIENCE)

    def _all(self) -> list[Mirror]:
        with self._mutex:
            return [*self._recent.values()]

    def _due(self) -> float | None:
        with self._mutex:
            due = [one for each in self._recent.values() if (one := each.due) is not None]
            if not due:
                _WATCHED.discard(self)  # under the mutex: who stages now starts another thread
            self._sleeps_until = min(due, default=0.0)
            return min(due, default=None)


@atexit.register
def _write_at_exit() -> None:
    for mirrors in [*_WATCHED]:
        try:
            mirrors.flush()
        except Exception:
            logger.exception("messages that waited for a turn were lost at the interpreter's exit")

"""Deleting the responses that the service stores with every turn.

An engine and an agent do not hand on a response's id; LlamaIndex's events do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent

from qwen_conv import QwenConversations, flows
from qwen_conv.calls import DeleteResponse
from qwen_conv.errors import NotFoundError


class ResponseIds(BaseEventHandler):
    """Keeps the id of every response that a `QwenConv` gives in a chat."""

    ids: list[str] = Field(default_factory=list)

    def handle(self, event: Any, **_: Any) -> None:
        """Is called with each event."""
        if isinstance(event, LLMChatEndEvent) and event.response is not None:
            self.ids.append(event.response.additional_kwargs["response_id"])


@contextmanager
def responses_deleted(hub: QwenConversations) -> Iterator[None]:
    """Deletes at its end what the turns inside have stored as responses."""
    seen, root = ResponseIds(), get_dispatcher()
    root.add_event_handler(seen)
    try:
        yield
    finally:
        root.event_handlers.remove(seen)
        for response_id in seen.ids:
            with suppress(NotFoundError):  # a turn on no conversation is stored nowhere
                hub.run(flows.send, DeleteResponse(response_id))

"""What the processes of the Alice conversation share: a hub that counts, and a look at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai

from qwen_conv import QwenConversations, flows
from qwen_conv.items import Message

MODEL = "qwen3.6-plus"


class Wire:
    """Counts what goes up."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.bytes_up = 0

    def see(self, request: Any) -> None:
        """Is called by the HTTP client with each request."""
        self.requests.append(request.method)
        self.bytes_up += len(request.content)

    def told(self) -> str:
        """Says what was counted since it last said so."""
        count, methods = len(self.requests), ", ".join(self.requests)
        text = f"requests: {count} ({methods}), bytes up: {self.bytes_up}"
        self.requests, self.bytes_up = [], 0
        return text


@contextmanager
def hub_on(wire: Wire) -> Iterator[QwenConversations]:
    """A hub of the service that the environment names, whose requests are counted."""
    service = QwenConversations()
    with openai.OpenAI(
        api_key=service.secret,
        base_url=service.base_url,
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [wire.see]}),
    ) as client:
        yield QwenConversations(client=client)


def show(hub: QwenConversations, conversation_id: str) -> None:
    """Prints the stored items, oldest first."""
    print("\nThe conversation holds, oldest first:\n")
    for item in hub.run(flows.read, conversation_id):
        if isinstance(item, Message):
            print(f"  {item.role:10} {item.text}")

"""The examples of the service's pages about conversations and responses, request and answer.

What a page's code sends is sent by the same code; what it shows as the answer is the answer. An
answer that it does not show is the offline server's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from qwen_conv.offline import OfflineServer
from recording.tape import PROVENANCE, Provenance, recording
from recording.ways import Way

MODEL = "qwen3.6-plus"
SITE = "docs.qwencloud.com"
READ = "read 2026-11-20"

Ask = Callable[..., Coroutine[Any, Any, Any]]
"""Asks the SDK: `await ask(lambda client: ..., shown)`; `shown` is the answer on the page."""


class Example(NamedTuple):
    """An example of a page.

    Attributes:
        name: What its cassette is called.
        page: The page, and which of its answers are the offline server's.
        session: What the page's code does, and returns.
    """

    name: str
    page: str
    session: Callable[[Ask], Coroutine[Any, Any, Any]]


ALICE = (
    "Alice, a gentle and resilient woman, was born in Singapore. She is 20 years old, and her "
    "hobbies are music and chess."
)
MAJOR = "Alice's major is teacher education"
FRIEND = "Alice's best friend is Bob"
COAST = "Additional info: I prefer coastal cities."
ADVISOR = "You are a travel advisor who specializes in recommending travel destinations."


def _shown_item(item_id: str, text: str) -> dict[str, Any]:
    return {
        "content": [{"text": text, "type": "input_text"}],
        "id": item_id,
        "role": "user",
        "status": "completed",
        "type": "message",
    }


CREATED_ITEMS = {
    "data": [_shown_item("msg_xxx", MAJOR)],
    "first_id": "msg_xxx",
    "has_more": False,
    "last_id": "msg_xxx",
}
LISTED_ITEMS = {
    "data": [
        _shown_item("msg_7639f8f6-484b-454a-8125-96a3f40eb9e8", ALICE),
        _shown_item("msg_288594f6-6ef1-4519-94d4-a545ca311828", FRIEND),
    ],
    "first_id": "msg_7639f8f6-484b-454a-8125-96a3f40eb9e8",
    "has_more": False,
    "last_id": "msg_288594f6-6ef1-4519-94d4-a545ca311828",
    "object": "list",
}
SECOND_ROUND = {
    "id": "f0dbb153-117f-9bbf-8176-5284b47f3xxx",
    "model": MODEL,
    "status": "completed",
    "output": [
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {
                    "type": "output_text",
                    "text": "Yes, John! I remember your name. How can I assist you today?",
                }
            ],
        }
    ],
    "usage": {"input_tokens": 78, "output_tokens": 16, "total_tokens": 94},
}


async def use_conversations(ask: Ask) -> list[Any]:
    """A conversation is created with a fact in it, and asked about twice."""
    conversation = await ask(
        lambda client: client.conversations.create(
            items=[{"type": "message", "role": "system", "content": ALICE}]
        )
    )
    answers = [
        await ask(
            lambda client, text=text: client.responses.create(
                conversation=conversation.id, model=MODEL, input=text
            )
        )
        for text in ("How old is Alice?", "What are her hobbies?")
    ]
    return [conversation, *answers]


async def previous_response_id(ask: Ask) -> list[Any]:
    """A second round is chained to the first by the response's id."""
    first = await ask(
        lambda client: client.responses.create(
            model=MODEL, input="My name is John, please remember it."
        )
    )
    second = await ask(
        lambda client: client.responses.create(
            model=MODEL, input="Do you remember my name?", previous_response_id=first.id
        ),
        SECOND_ROUND,
    )
    return [first, second]


async def travel_advisor(ask: Ask) -> list[Any]:
    """A conversation with a system prompt in each turn is added to, and listed."""
    conversation = await ask(lambda client: client.conversations.create())
    answers = [
        await ask(
            lambda client, text=text: client.responses.create(
                conversation=conversation.id, model=MODEL, instructions=ADVISOR, input=text
            )
        )
        for text in (
            "Recommend a city suitable for summer travel.",
            "What are the must-try foods there?",
        )
    ]
    content = [{"type": "input_text", "text": COAST}]
    added = await ask(
        lambda client: client.conversations.items.create(
            conversation.id, items=[{"type": "message", "role": "user", "content": content}]
        )
    )
    listed = await ask(lambda client: client.conversations.items.list(conversation.id))
    return [conversation, *answers, added, listed]


async def create_items(ask: Ask) -> list[Any]:
    """A message is added to a conversation."""
    content = [{"type": "input_text", "text": MAJOR}]
    added = await ask(
        lambda client: client.conversations.items.create(
            "conv_xxx", items=[{"type": "message", "role": "user", "content": content}]
        ),
        CREATED_ITEMS,
    )
    return [added]


async def list_items(ask: Ask) -> list[Any]:
    """A conversation's items are listed."""
    return [await ask(lambda client: client.conversations.items.list("conv_xxx"), LISTED_ITEMS)]


EXAMPLES = (
    Example(
        "use_conversations",
        f'{SITE}, "Conversations", "Use conversations in the Responses API"; {READ}. '
        "All three answers: offline",
        use_conversations,
    ),
    Example(
        "previous_response_id",
        f'{SITE}, "Multi-turn conversations", "Getting started"; {READ}. First answer: offline',
        previous_response_id,
    ),
    Example(
        "travel_advisor",
        f'{SITE}, "Multi-turn conversations", "Create a conversation and chat", "Add messages", '
        f'"View conversation history"; {READ}. All five answers: offline',
        travel_advisor,
    ),
    Example("create_items", f'{SITE}, "Create items"; {READ}', create_items),
    Example("list_items", f'{SITE}, "List items"; {READ}', list_items),
)


def record(folder: Path) -> None:
    """Records each example as a cassette."""
    for example in EXAMPLES:
        _record(example, folder / f"{example.name}.yaml")


def _record(example: Example, path: Path) -> None:
    source = Provenance("documented", example.page)
    with (
        OfflineServer() as server,
        _Page() as page,
        recording(path, [server.base_url, page.base_url], source),
    ):
        unshown, on_page = (
            Way("offline", base_url, MODEL, asynchronous=False)
            for base_url in (server.base_url, page.base_url)
        )

        async def ask(question: Callable[[Any], Any], shown: Any = None) -> Any:
            page.shown = shown
            return await (on_page if shown else unshown).ask(question)

        async def session(_: Way) -> None:
            await example.session(ask)

        unshown.play(session)


class _Page:
    """A server on loopback that answers what a page shows."""

    shown: Any = None

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = json.dumps(outer.shown).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header(PROVENANCE, "documented")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _answer  # noqa: N815 - http.server's names

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

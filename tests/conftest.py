"""What the tests share: a server, a hub, and the four ways of taking a turn."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations
from qwen_conv.ledger import Ledger, Ledgers
from qwen_conv.locks import TurnLocks
from qwen_conv.mirrors import Mirrors
from qwen_conv.offline import OfflineServer
from qwen_conv.registry import MemoryRegistry

MODEL = "qwen3.6-plus"
KEY = "sk-made-up-for-the-tests"
WAYS = ("invoke", "stream", "ainvoke", "astream")

Take = Callable[..., AIMessage]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-standard", action="store_true", help="record what LangChain's own tests send"
    )


@pytest.fixture(autouse=True)
def _own_sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test knows nothing of another, whose server may have had the same port.

    What still waits for a turn when it is over is dropped: nobody is there to send it to.
    """
    monkeypatch.setattr("qwen_conv.hub.PROCESS_REGISTRY", MemoryRegistry())
    monkeypatch.setattr("qwen_conv.hub.PROCESS_LEDGERS", Ledgers())
    watched: set[Mirrors] = set()
    monkeypatch.setattr("qwen_conv.mirrors._WATCHED", watched)
    monkeypatch.setattr("qwen_conv.retries.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("qwen_conv.looking.AFTER_FAILURE", 0.02)  # the offline server does at once
    yield
    for mirrors in [*watched]:
        for mirror in mirrors._all():
            mirror._staged = []
        mirrors._woken.set()


@contextmanager
def main_loop() -> Iterator[None]:
    """The main thread's event loop: LlamaIndex would make one, and not close it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_asyncgens())  # which closes the hub's client of the loop
    loop.close()


@pytest.fixture(autouse=True)
def _closed_loop() -> Iterator[None]:
    with main_loop():
        yield


@pytest.fixture
def server() -> Iterator[OfflineServer]:
    with OfflineServer() as server:
        yield server


@pytest.fixture(scope="session")
def smg() -> Iterator[Any]:
    """One SMG for all tests of a process that ask for it; see `smg_server`."""
    from smg_server import SmgServer

    with SmgServer() as smg:
        yield smg


@pytest.fixture
def hub(server: OfflineServer) -> QwenConversations:
    return QwenConversations(api_key="any", base_url=server.base_url, clock=server.clock.now)


@pytest.fixture
def chat(hub: QwenConversations) -> ChatQwenConv:
    return ChatQwenConv(model=MODEL, conversations=hub)


@pytest.fixture(params=WAYS)
def take(request: pytest.FixtureRequest) -> Take:
    """One turn in one of the four ways; asynchronous ones each in an event loop of their own."""
    return {"invoke": invoke, "stream": stream, "ainvoke": ainvoke, "astream": astream}[
        request.param
    ]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, hub: QwenConversations) -> Callable[..., Any]:
    """Runs a flow of the core in a thread, or in a task."""
    if request.param == "sync":
        return hub.run
    return lambda flow, *args, **kwargs: asyncio.run(hub.arun(flow, *args, **kwargs))


def another_process(server: OfflineServer, **settings: Any) -> QwenConversations:
    """A hub that knows nothing yet, as another process has it."""
    hub = QwenConversations(
        api_key="any", base_url=server.base_url, clock=server.clock.now, **settings
    )
    hub.ledger, hub.locks = Ledger(), TurnLocks()
    return hub


@contextmanager
def nobody() -> Iterator[str]:
    """A base URL where nobody listens, nor will: its port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def invoke(chat: Any, messages: Any, *args: Any, **kwargs: Any) -> AIMessage:
    return chat.invoke(messages, *args, **kwargs)


def stream(chat: Any, messages: Any, *args: Any, **kwargs: Any) -> AIMessage:
    return added(chat.stream(messages, *args, **kwargs))


def ainvoke(chat: Any, messages: Any, *args: Any, **kwargs: Any) -> AIMessage:
    return asyncio.run(chat.ainvoke(messages, *args, **kwargs))


def astream(chat: Any, messages: Any, *args: Any, **kwargs: Any) -> AIMessage:
    async def chunks() -> list[Any]:
        return [chunk async for chunk in chat.astream(messages, *args, **kwargs)]

    return added(asyncio.run(chunks()))


def added(chunks: Any) -> AIMessage:
    first, *others = chunks
    return "".join([first, *others]) if isinstance(first, str) else first + others


def said(server: OfflineServer, conversation_id: str) -> list[str]:
    """What a conversation holds, as "role: text" for each message."""
    return [
        f"{item['role']}: {''.join(part['text'] for part in item['content'])}"
        for item in server.items(conversation_id)
        if item["type"] == "message"
    ]


def asked(server: OfflineServer) -> list[str]:
    """The requests that came, as "METHOD path" with ids left out."""
    return [
        request.method
        + " "
        + "/".join(
            "*" if part.startswith(("conv_", "msg_", "resp_")) or part.count("-") == 4 else part
            for part in request.path.split("/")
        )
        for request in server.requests
    ]


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits until something is so that another thread brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def run_example(name: str, **environment: str) -> str:
    """What an example prints, run as a user does; it must not complain."""
    without = {key: value for key, value in os.environ.items() if "DASHSCOPE" not in key}
    told = subprocess.run(
        [sys.executable, Path(__file__).parent.parent / "examples" / name],
        env=without | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stderr == ""
    return told.stdout


def always(answer: Any) -> Callable[..., Any]:
    """A script for the offline server that answers the same to everything."""

    def script(_context: Any, _request: Any) -> Any:
        return answer

    return script

"""SMG, a server that owns conversations and that nobody here wrote, before a model of ours.

SMG (Shepherd Model Gateway, `smg` on PyPI) keeps conversations, their items and responses, and asks
a model for nothing but stateless responses. The model is an `OfflineServer` here, of which nothing
else is used.

A module that imports `server` runs on the session's one SMG, with no other test's script.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import pytest
from agents import local_transcript, settled, transcript
from conftest import MODEL

from qwen_conv import errors, flows
from qwen_conv.looking import AFTER_FAILURE
from qwen_conv.offline import Fail, OfflineServer
from qwen_conv.offline.model import input_items
from qwen_conv.offline.responder import quote

BINARY = Path(sys.executable).with_name("smg")
HEADERS = {"content-type": "application/json", "authorization": "Bearer any"}


FAILURES = {
    "429": (Fail("slow down", "Throttling.RateQuota", 429), errors.RateLimitedError),
    "500": (Fail("out of order", "InternalError", 500), errors.ServiceFailedError),
    "in the middle of a stream": (
        Fail("out of order", "InternalError", 500, after=1),
        errors.ServiceFailedError,
    ),
}


class Held:
    """The model's application, which holds the ends of its answers back while it is told to."""

    def __init__(self, app):
        self.app = app
        self.free = threading.Event()
        self.free.set()

    async def __call__(self, scope, receive, send):
        async def passed_on(message):
            if b"completed" in message.get("body", b""):
                await asyncio.to_thread(self.free.wait)
            await send(message)

        await self.app(scope, receive, passed_on)


class SmgServer:
    """SMG in a process of its own, and the model behind it in a thread of this one.

    It has what the tests ask of an `OfflineServer`: `base_url`, `clock`, `script` and `items`. Its
    clock is the machine's.

    Args:
        retention: How many seconds an item, a response or a conversation is kept.

    Attributes:
        model: The model's server; its `requests` are what SMG asked of it.
        base_url: The base URL to give to a client.
    """

    def __init__(self, retention: int = 86400) -> None:
        self.retention = retention
        self.model = OfflineServer(stream_errors="status", unanswered_call="accepted")
        self.clock = self.model.clock
        config = self.model._server.config
        config.app = self._held = Held(config.app)

    def __enter__(self):
        self.model.__enter__()
        try:
            self._start()
        except BaseException:
            self.model.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_):
        self._stop()
        self.model.__exit__(None, None, None)

    def _start(self, attempts=5):
        """Starts SMG, on other ports if somebody was faster in taking those that were free."""
        for _ in range(attempts):
            port, of_metrics = free_ports(2)
            self.base_url = f"http://127.0.0.1:{port}/v1"
            self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
            try:
                self._process = subprocess.Popen(
                    [BINARY, "launch", *self._arguments(port, of_metrics)],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                )
            except OSError:
                self._log.close()
                raise
            try:
                if self._answers(f"http://127.0.0.1:{port}/readiness"):
                    return
            except BaseException:
                self._stop()
                raise
            told = self._stop()
        raise RuntimeError(f"SMG does not start:\n{told[-3000:]}")

    def _arguments(self, port, of_metrics):
        settings = {
            "host": "127.0.0.1",
            "port": port,
            "backend": "openai",
            "worker-urls": self.model.base_url.removesuffix("/v1"),
            "history-backend": "memory",
            "history-memory-retention-secs": self.retention,
            "prometheus-host": "127.0.0.1",
            "prometheus-port": of_metrics,
            "log-level": "error",
        }
        for name, value in settings.items():
            yield from (f"--{name}", str(value))
        # A failure of the model's reaches the client as it is, and keeps the next turn from nothing.
        yield from ("--disable-retries", "--disable-circuit-breaker", "--disable-health-check")
        yield "--disable-load-monitoring"

    def _answers(self, address, seconds=20.0):
        """Whether this process comes to listen there; another one may, if it was faster."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                asked(address, seconds=1.0)
                return self._asks_our_model()
            except HTTPError as error:  # not yet
                error.close()
            except (OSError, HTTPException):
                time.sleep(0.02)
        return False

    def _asks_our_model(self):
        asked(f"{self.base_url}/responses", {"model": MODEL, "input": "Is it you?"})
        return bool(self.turns)

    def _stop(self):
        # Nothing that it keeps is needed any more, and a gentle end would wait for connections.
        self._process.kill()
        self._process.wait()
        with self._log:
            self._log.seek(0)
            return self._log.read()

    @property
    def script(self):
        """What the model answers with, as that of an `OfflineServer`."""
        return self.model.script

    @script.setter
    def script(self, script):
        self.model.script = script

    @property
    def turns(self):
        """The bodies of what SMG asked of the model; it also asks how busy it is, now and then."""
        return [one.body for one in self.model.requests if one.path == "/responses"]

    @property
    def shown(self):
        """What the model was shown, request by request, as a transcript without system prompts."""
        return [transcript(input_items(body["input"])) for body in self.turns]

    @contextmanager
    def late(self):
        """Inside, the model begins its answers and does not end them, before the block does."""
        self._held.free.clear()
        try:
            yield self._held.free.set
        finally:
            self._held.free.set()

    def items(self, conversation_id, limit=100):
        """What SMG lists of a conversation, oldest first."""
        found, after = [], ""
        while True:
            page = asked(
                f"{self.base_url}/conversations/{conversation_id}/items?order=asc&limit={limit}{after}"
            )
            found += page["data"]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"

    def begin(self):
        """Forgets what a test before did."""
        self.script = quote
        self.model.requests.clear()


def asked(address, body=None, method=None, seconds=20.0):
    """The JSON that is answered, asked for without anything of the project."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, HEADERS, method=method)  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
        told = answer.read()
    return json.loads(told) if told.startswith(b"{") else told


def refused(address, body=None, method=None):
    """The status and the error that a request is refused with."""
    with pytest.raises(HTTPError) as raised:
        asked(address, body, method)
    with raised.value as error:
        return error.code, json.load(error)["error"]


def begun(hub, key="alice"):
    """An empty conversation that a session is bound to: SMG loses what one is created with."""
    conversation = hub.run(flows.create).id
    hub.registry.bind(hub.session(key), conversation)
    return conversation


def holds(server, conversation, messages):
    """Whether the conversation holds what LangChain's messages say: each once, in order."""
    assert settled(transcript(server.items(conversation))) == local_transcript(messages)
    return True


def is_exact(server, conversation, messages):
    """Whether it does, and the model was last shown all of it but its own answer."""
    assert settled(server.shown[-1]) == local_transcript(messages[:-1])
    return holds(server, conversation, messages)


def free_ports(count):
    """Ports that nobody listened on a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture
def server(smg, monkeypatch):
    monkeypatch.setattr("qwen_conv.looking.AFTER_FAILURE", AFTER_FAILURE)
    smg.begin()
    return smg

"""Clients of the openai SDK that talk to Qwen, and to nobody else.

This is the only module that imports openai, and it is itself imported when the first request is
made. The SDK reads OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID, OPENAI_PROJECT_ID,
OPENAI_ADMIN_KEY and OPENAI_CUSTOM_HEADERS; the last four end up in its default headers. Here the
default headers are said in full, so that none of them, nor the SDK's telemetry, reaches Qwen.

A redirect is not followed: the messages would go where nobody has asked for, perhaps unencrypted.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, cast
from weakref import finalize

import openai

from qwen_conv._version import __version__
from qwen_conv.errors import blacken, blackened


class QwenClient(openai.OpenAI):
    """The SDK's client for threads, with headers of our own."""

    own_headers: Mapping[str, str] = {}

    @property
    def default_headers(self) -> dict[str, Any]:
        """What every request carries."""
        return {**self.own_headers}


class AsyncQwenClient(openai.AsyncOpenAI):
    """The SDK's client for tasks, with headers of our own.

    It belongs to the event loop that it is first used in.
    """

    own_headers: Mapping[str, str] = {}

    @property
    def default_headers(self) -> dict[str, Any]:
        """What every request carries."""
        return {**self.own_headers}


def connect(api_key: str, base_url: str, headers: Mapping[str, str]) -> QwenClient:
    """A client for threads; it holds its connections until it is closed, or dropped."""
    connections = openai.DefaultHttpxClient(verify=_certificates(), follow_redirects=False)
    client = QwenClient(
        api_key=api_key,
        base_url=base_url,
        organization="",
        project="",
        http_client=connections,
    )
    finalize(client, connections.close)  # before the sockets are collected, which warn if open
    client.own_headers = _headers(api_key, headers)
    return client


def connect_async(api_key: str, base_url: str, headers: Mapping[str, str]) -> AsyncQwenClient:
    """A client for the tasks of one event loop."""
    client = AsyncQwenClient(
        api_key=api_key,
        base_url=base_url,
        organization="",
        project="",
        http_client=openai.DefaultAsyncHttpxClient(verify=_certificates(), follow_redirects=False),
    )
    client.own_headers = _headers(api_key, headers)
    return client


def _certificates() -> ssl.SSLContext:
    return _certificates_of(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _certificates_of(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """The certificates to trust, read once; a client would read them when it is made.

    That takes 20 ms and more, and each event loop has a client of its own.
    """
    modules = [one.__module__.partition(".")[0] for one in openai.DefaultHttpxClient.__mro__]
    transport = import_module("httpx" if "httpx" in modules else "httpx2")  # openai 2, openai 3
    return cast("ssl.SSLContext", transport.create_ssl_context())


class _Blackening(logging.Filter):
    """Keeps API keys out of what libraries log: at DEBUG, all that an answer's headers say."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Blackens the keys in a record."""
        told = before = record.getMessage()
        for key in [*self.keys]:
            told = blackened(told, key)
            if record.exc_info and record.exc_info[1] is not None:
                blacken(record.exc_info[1], key)
        if told != before:
            record.msg, record.args = told, ()
        return True


_BLACKENING = _Blackening()
for _name in (
    "openai._base_client",
    *("httpx", "httpcore.http11", "httpcore.http2"),  # under openai 2
    *("httpx2", "httpcore2.http11", "httpcore2.http2"),  # under openai 3
):
    logging.getLogger(_name).addFilter(_BLACKENING)


def _headers(api_key: str, more: Mapping[str, str]) -> Mapping[str, str]:
    _BLACKENING.keys.add(api_key)
    return {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": f"qwen-conv/{__version__}",
        # openai 2.0 takes the key from its default headers, later ones add it themselves.
        "Authorization": f"Bearer {api_key}",
        **more,
    }


class Events(openai.Stream[object]):
    """The events of a stream as the JSON that they are, an answer that is no stream as one event.

    The SDK's own reading fails on an event without data, which SSE makes of a comment behind an
    `id:` line, and loses the request's id of an error.
    """

    def __stream__(self) -> Iterator[object]:
        try:
            if _is_json(self.response):
                self.response.read()
                yield self.response.json()
                return
            for event in self._iter_events():
                if event.data == DONE:
                    return
                if event.data:
                    yield event.json()
        finally:
            self.response.close()


class AsyncEvents(openai.AsyncStream[object]):
    """`Events`, for the tasks of an event loop."""

    async def __stream__(self) -> AsyncIterator[object]:
        try:
            if _is_json(self.response):
                await self.response.aread()
                yield self.response.json()
                return
            async for event in self._iter_events():
                if event.data == DONE:
                    return
                if event.data:
                    yield event.json()
        finally:
            await self.response.aclose()


DONE = "[DONE]"
"""What OpenAI ends some streams with; Qwen's have no such line."""


def _is_json(response: Any) -> bool:
    return str(response.headers.get("content-type", "")).startswith("application/json")

"""What goes up to the server, counted from the bytes on the wire."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import NamedTuple
from urllib.parse import urlsplit


class Traffic(NamedTuple):
    """Requests, and their bytes.

    Attributes:
        requests: How many there were.
        body: The bytes of their bodies.
        total: All bytes: request lines, headers and bodies.
    """

    requests: int
    body: int
    total: int


class Relay(ThreadingTCPServer):
    """Stands between clients and a server on loopback, and keeps what the clients send.

    Attributes:
        base_url: The base URL to give to a client.
        behind: The address of the server behind.
        sent: What was sent, by connection.
    """

    daemon_threads = True

    def __init__(self, base_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        url = urlsplit(base_url)
        self.base_url = url._replace(netloc=f"127.0.0.1:{self.server_address[1]}").geturl()
        self.behind = (url.hostname, url.port)
        self.sent: list[bytearray] = []

    def taken(self) -> Traffic:
        """What was sent since it was last asked. Every answer has to have come."""
        counted = [part for sent in self.sent for part in _requests(bytes(sent))]
        for sent in self.sent:
            sent.clear()
        return Traffic(len(counted), *map(sum, zip(*counted, strict=True)))


class _Connection(BaseRequestHandler):
    server: Relay
    request: socket.socket

    def handle(self) -> None:
        self.server.sent.append(sent := bytearray())
        # Clients send headers and body apart; the body would wait 40 ms for the headers' receipt.
        with socket.create_connection(self.server.behind) as behind:
            behind.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Thread(target=_pass_on, args=(behind, self.request), daemon=True).start()
            _pass_on(self.request, behind, sent)


def _pass_on(source: socket.socket, target: socket.socket, copy: bytearray | None = None) -> None:
    while data := source.recv(65_536):
        if copy is not None:
            copy += data
        target.sendall(data)


def _requests(sent: bytes) -> Iterator[tuple[int, int]]:
    """The size of each request's body, and of all of it."""
    while sent:
        head, end, _ = sent.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not end or re.search(rb"(?i)\r\ntransfer-encoding:", head):
            raise RuntimeError("A request is not whole, or its body comes in chunks.")
        body = int(length[1]) if length else 0
        total = len(head) + len(end) + body
        yield body, total
        sent = sent[total:]


@contextmanager
def relayed(base_url: str) -> Iterator[Relay]:
    """A relay, in threads of this process: no time can be measured beside it."""
    with Relay(base_url) as relay:
        Thread(target=relay.serve_forever, daemon=True).start()
        try:
            yield relay
        finally:
            relay.shutdown()

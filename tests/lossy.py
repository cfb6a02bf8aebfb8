"""A relay before a server that has requests be carried out, and their answers not arrive."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Relay(ThreadingHTTPServer):
    """Stands between a client and a server on loopback.

    Attributes:
        loses: Says of a request, by method and path, whether its answer is to be lost.
        base_url: The base URL to give to a client.
    """

    daemon_threads = True

    def __init__(self, base_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        url = urlsplit(base_url)
        self.behind = url.netloc
        self.base_url = url._replace(netloc=f"127.0.0.1:{self.server_address[1]}").geturl()
        self.loses: Callable[[str, str], bool] = lambda _method, _path: False


class _Passing(BaseHTTPRequestHandler):
    server: Relay
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        behind = http.client.HTTPConnection(self.server.behind)
        behind.request(self.command, self.path, body or None, dict(self.headers))
        answer = behind.getresponse()
        told = answer.read()
        behind.close()
        if self.server.loses(self.command, self.path):
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers.get("content-type", ""))
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST = do_DELETE = _pass  # noqa: N815 - the names that are asked for

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def relayed(base_url: str) -> Iterator[Relay]:
    """A relay before that server."""
    with Relay(base_url) as relay:
        thread = threading.Thread(target=relay.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            thread.join()

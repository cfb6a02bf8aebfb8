"""A relay before a server that has requests be carried out, or not, and their answers not arrive."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    kind: str
    body: bytes


class Request:
    """A request on its way: it can be carried out, and answered."""

    def __init__(self, handler: _Passing) -> None:
        self._handler = handler
        self._body = handler.rfile.read(int(handler.headers.get("content-length") or 0))

    @property
    def sort(self) -> tuple[str, str]:
        """Its method and path."""
        return self._handler.command, self._handler.path

    @property
    def is_turn(self) -> bool:
        """Whether it is a turn of a conversation."""
        method, path = self.sort
        is_answered = method == "POST" and path.endswith("/responses")
        return is_answered and "conversation" in json.loads(self._body)

    @property
    def is_list(self) -> bool:
        """Whether it lists items."""
        method, path = self.sort
        return method == "GET" and "/items" in path

    def carry_out(self) -> Answer:
        return self._sent(self._body)

    def rehearse(self) -> Answer:
        """What a turn would be answered; nothing of it is stored."""
        told = json.loads(self._body)
        told.pop("conversation", None)
        return self._sent(json.dumps({**told, "store": False}).encode())

    def _sent(self, body: bytes) -> Answer:
        handler = self._handler
        headers = {**handler.headers}
        headers.pop("Content-Length", None)  # that of a body that was changed is another one
        behind = http.client.HTTPConnection(handler.server.behind)
        behind.request(handler.command, handler.path, body or None, headers)
        answer = behind.getresponse()
        told = Answer(answer.status, answer.headers.get("content-type", ""), answer.read())
        behind.close()
        return told

    def answer(self, answer: Answer, **headers: str) -> None:
        handler = self._handler
        handler.send_response(answer.status)
        handler.send_header("content-type", answer.kind)
        handler.send_header("content-length", str(len(answer.body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(answer.body)

    def close(self) -> None:
        self._handler.close_connection = True


Fault = Callable[[Request], None]


class Relay(ThreadingHTTPServer):
    """Stands between a client and a server on loopback.

    Attributes:
        loses: Says of a request, by method and path, whether its answer is to be lost.
        faults: What becomes of the next turns, one of each.
        appends: What becomes of the next requests that add items, one of each.
        refuses: Says of a request which status, or what, it is answered with, instead of being
            carried out.
        sees: Is told of each request before anything becomes of it.
        base_url: The base URL to give to a client.
    """

    daemon_threads = True

    def __init__(self, base_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        url = urlsplit(base_url)
        self.behind = url.netloc
        self.base_url = url._replace(netloc=f"127.0.0.1:{self.server_address[1]}").geturl()
        self.loses: Callable[[str, str], bool] = lambda _method, _path: False
        self.faults: list[Fault] = []
        self.appends: list[Fault] = []
        self.refuses: Callable[[str, str], int | Answer | None] = lambda _method, _path: None
        self.sees: Callable[[Request], None] = lambda _request: None


class _Passing(BaseHTTPRequestHandler):
    server: Relay
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _pass(self) -> None:
        request = Request(self)
        self.server.sees(request)
        if told := self.server.refuses(self.command, self.path):
            request.answer(told if isinstance(told, Answer) else Answer(told, "", b""))
            return
        is_turn = self.command == "POST" and self.path.endswith("/responses")
        if is_turn and self.server.faults:
            self.server.faults.pop(0)(request)
            return
        if self.server.appends and self.command == "POST" and self.path.endswith("/items"):
            self.server.appends.pop(0)(request)
            return
        answer = request.carry_out()
        if self.server.loses(self.command, self.path):
            request.close()
            return
        request.answer(answer)

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


# --- What may become of a turn ------------------------------------------------------------------


def lost(request: Request) -> None:
    """It is carried out, and the answer is lost."""
    request.carry_out()
    request.close()


def never_ran(request: Request) -> None:
    """The connection breaks before the service has seen the request."""
    request.close()


def late(released: threading.Event) -> Fault:
    """The connection breaks; the request is carried out later."""

    def fault(request: Request) -> None:
        def carry_out() -> None:
            released.wait(10)
            request.carry_out()

        threading.Thread(target=carry_out, daemon=True).start()
        request.close()

    return fault


def refused(status: int, code: str, message: str = "sorry", **headers: str) -> Fault:
    """It is refused, and not carried out."""
    body = json.dumps({"code": code, "message": message, "request_id": "r"}).encode()
    return lambda request: request.answer(Answer(status, "application/json", body), **headers)


def failed_after(status: int) -> Fault:
    """It is carried out, and the answer says that it failed."""
    body = json.dumps({"code": "InternalError", "message": "sorry"}).encode()

    def fault(request: Request) -> None:
        request.carry_out()
        request.answer(Answer(status, "application/json", body))

    return fault


def cut(events: int, end: bytes = b"") -> Fault:
    """It is carried out; its stream ends after some events, or with something else then."""

    def fault(request: Request) -> None:
        answer = request.carry_out()
        parts = answer.body.split(b"\n\n")[:events]
        request.answer(answer._replace(body=b"".join(part + b"\n\n" for part in parts) + end))
        request.close()

    return fault


def put_off(waiting: list[Callable[[], Answer]]) -> Fault:
    """The connection breaks; what is put on the list carries the request out later."""

    def fault(request: Request) -> None:
        waiting.append(request.carry_out)
        request.close()

    return fault


def cut_unstored(events: int, waiting: list[Callable[[], Answer]] | None = None) -> Fault:
    """The stream of its answer ends after some events, before anything is stored.

    What is not streamed is not answered. Where there is a list, what is put on it carries the
    request out later.
    """

    def fault(request: Request) -> None:
        answer = request.rehearse()
        if waiting is not None:
            waiting.append(request.carry_out)
        parts = answer.body.split(b"\n\n")[:-2]  # without what says that it is complete
        if parts:
            body = b"".join(part + b"\n\n" for part in parts[:events])
            request.answer(answer._replace(body=body))
        request.close()

    return fault

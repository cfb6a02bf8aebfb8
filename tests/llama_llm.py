"""What the tests of LlamaIndex's LLM share: the ways of asking it, and a server of any answer."""

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conftest import MODEL
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.tools import FunctionTool

from llamaindex_qwen_conv import QwenConv
from qwen_conv import QwenConversations

JSON = "application/json"
EVENTS = "text/event-stream"


def llm_at(server, **settings):
    """An LLM of its own hub at a server, or at an address."""
    address = server if isinstance(server, str) else server.base_url
    hub = QwenConversations(api_key="any", base_url=address)
    return QwenConv(model=MODEL, conversations=hub, **settings)


def listed(messages):
    return [ChatMessage(messages)] if isinstance(messages, str) else messages


def calls_of(response):
    """The tool calls of an answer, comparable."""
    return [
        (block.tool_call_id, block.tool_name, block.tool_kwargs)
        for block in response.message.blocks
        if block.block_type == "tool_call"
    ]


@contextmanager
def hearing():
    """Every event that LlamaIndex tells of inside, in order."""
    events = []

    class Handler(BaseEventHandler):
        def handle(self, event, **_):
            events.append(event)

    root = get_dispatcher()
    before = [*root.event_handlers]
    root.add_event_handler(Handler())
    try:
        yield events
    finally:
        root.event_handlers[:] = before


# --- Chats: the whole answer, or the pieces of a stream, in each way --------------------------


def chat(llm, messages, **kwargs):
    return llm.chat(listed(messages), **kwargs)


def achat(llm, messages, **kwargs):
    return asyncio.run(llm.achat(listed(messages), **kwargs))


def stream_pieces(llm, messages, **kwargs):
    return [*llm.stream_chat(listed(messages), **kwargs)]


def astream_pieces(llm, messages, **kwargs):
    async def collected():
        return [piece async for piece in await llm.astream_chat(listed(messages), **kwargs)]

    return asyncio.run(collected())


WAYS = {
    "chat": chat,
    "achat": achat,
    "stream_chat": lambda *args, **kwargs: stream_pieces(*args, **kwargs)[-1],
    "astream_chat": lambda *args, **kwargs: astream_pieces(*args, **kwargs)[-1],
}
"""The ways of asking for an answer; a stream's is its last piece."""

STREAMS = {"stream_chat": stream_pieces, "astream_chat": astream_pieces}
"""The ways of asking for pieces."""


# --- Completions ------------------------------------------------------------------------------


def complete(llm, prompt, **kwargs):
    return [llm.complete(prompt, **kwargs)]


def acomplete(llm, prompt, **kwargs):
    return [asyncio.run(llm.acomplete(prompt, **kwargs))]


def stream_complete(llm, prompt, **kwargs):
    return [*llm.stream_complete(prompt, **kwargs)]


def astream_complete(llm, prompt, **kwargs):
    async def collected():
        return [piece async for piece in await llm.astream_complete(prompt, **kwargs)]

    return asyncio.run(collected())


COMPLETIONS = {
    "complete": complete,
    "acomplete": acomplete,
    "stream_complete": stream_complete,
    "astream_complete": astream_complete,
}
"""The ways of asking for a completion; all pieces of it."""


# --- Chats with tools -------------------------------------------------------------------------


def weather(city: str, days: int = 1) -> str:
    """The weather in a city."""
    return f"Sunny in {city} for {days}."


WEATHER = FunctionTool.from_defaults(weather)


def now() -> str:
    """What time it is."""
    return "noon"


NOW = FunctionTool.from_defaults(now)


def chat_with_tools(llm, tools, *args, **kwargs):
    return [llm.chat_with_tools(tools, *args, **kwargs)]


def achat_with_tools(llm, tools, *args, **kwargs):
    return [asyncio.run(llm.achat_with_tools(tools, *args, **kwargs))]


def stream_with_tools(llm, tools, *args, **kwargs):
    return [*llm.stream_chat_with_tools(tools, *args, **kwargs)]


def astream_with_tools(llm, tools, *args, **kwargs):
    async def collected():
        pieces = await llm.astream_chat_with_tools(tools, *args, **kwargs)
        return [piece async for piece in pieces]

    return asyncio.run(collected())


TOOL_WAYS = {
    "chat_with_tools": chat_with_tools,
    "achat_with_tools": achat_with_tools,
    "stream_chat_with_tools": stream_with_tools,
    "astream_chat_with_tools": astream_with_tools,
}
"""The ways of asking with tools; all pieces of the answer."""


# --- A server that answers as it is told ------------------------------------------------------


@contextmanager
def serving(write):
    """A base URL where `write(handler)` answers every request, on a connection that then closes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.close_connection = True
            write(self)

        do_GET = do_DELETE = do_POST  # noqa: N815 - the names of http.server

        def log_message(self, *args):
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def begin(handler, kind, status=200):
    handler.send_response(status)
    handler.send_header("content-type", kind)
    handler.send_header("connection", "close")
    handler.end_headers()


def answering(body, kind=JSON, status=200):
    """A base URL where every request is answered by this JSON, or these bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def write(handler):
        begin(handler, kind, status)
        handler.wfile.write(data)

    return serving(write)


def framed(*events):
    """Events as Qwen frames them."""
    return b"".join(
        f"id:{number}\nevent:{event['type']}\n:HTTP_STATUS/200\ndata:{json.dumps(event)}\n\n".encode()
        for number, event in enumerate(events, 1)
    )


def streaming(*events):
    """A base URL where every request is answered by these events, and then the end."""
    return answering(framed(*events), EVENTS)


def response(*output, **more):
    return {"id": "r1", "object": "response", "status": "completed", "output": [*output], **more}


def message(text, **more):
    content = [{"type": "output_text", "text": text}]
    return {"type": "message", "id": "m1", "role": "assistant", "content": content, **more}


CREATED = {"type": "response.created", "response": {"id": "r1"}}


def delta(text):
    return {"type": "response.output_text.delta", "delta": text}


def completed(*output, **more):
    return {"type": "response.completed", "response": response(*output, **more)}

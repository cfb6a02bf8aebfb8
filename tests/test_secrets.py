"""The API key stays where it belongs: in the Authorization header of a request to Qwen."""

import ast
import asyncio
import json
import pickle
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import MODEL, WAYS, ainvoke, always, astream, invoke, said, stream
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.llms import ChatMessage

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.calls import RetrieveConversation
from qwen_conv.limits import checked_base_url
from qwen_conv.registry import MemoryRegistry, SqlRegistry

KEY = "sk-made-up-and-a-secret-0123456789"
ROOT = Path(__file__).parent.parent
TAKE = dict(zip(WAYS, (invoke, stream, ainvoke, astream), strict=True))


# --- Servers that tell the key again ------------------------------------------------------------


@contextmanager
def serving(answer):
    """A base URL where `answer(handler, authorization)` answers; and the paths that came."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            came.append(self.path)
            answer(self, self.headers.get("authorization"))

        do_GET = do_DELETE = do_POST  # noqa: N815 - the names of http.server

        def log_message(self, *args):
            """Says nothing."""

        def told(self, status, body, kind="application/json", **headers):
            self.send_response(status)
            for name, value in {"content-type": kind, **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", came
        finally:
            server.shutdown()
            thread.join()


def in_the_text(handler, told):
    handler.told(403, json.dumps({"error": {"message": f"bad {told}", "code": told}}).encode())


def in_no_json(handler, told):
    handler.told(502, f"<html>{told}</html>".encode(), "text/html")


def in_the_headers(handler, told):
    handler.told(403, b"{}", x_request_id=told, x_echo=told, set_cookie=told)


def in_an_http_200(handler, told):
    handler.told(200, json.dumps({"code": "x", "message": told, "request_id": told}).encode())


def in_an_event(handler, told):
    failed = {"type": "error", "code": told, "message": f"bad {told}"}
    handler.told(200, f"data: {json.dumps(failed)}\n\n".encode(), "text/event-stream")


def in_an_event_of_failure(handler, told):
    response = {"id": "r", "status": "failed", "error": {"code": "x", "message": told}}
    event = {"type": "response.failed", "response": response}
    handler.told(200, f"data: {json.dumps(event)}\n\n".encode(), "text/event-stream")


def in_a_redirect(handler, told):
    handler.told(307, b"", location=f"/v1/elsewhere?key={told.split()[1]}", x_echo=told)


def by_silence(handler, _told):
    handler.close_connection = True


ECHOES = [
    in_the_text,
    in_no_json,
    in_the_headers,
    in_an_http_200,
    in_an_event,
    in_an_event_of_failure,
    in_a_redirect,
    by_silence,
]


def chain(error):
    """The error, and all that it came from."""
    seen, todo = [], [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in seen:
            seen.append(one)
            todo += [one.__cause__, one.__context__]
    return seen


def told_by(error, *, local_variables):
    """All that an error says, to whoever looks at it, prints it, reports it or sends it on."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=local_variables)
    yield "".join(trace.format())
    yield repr(pickle.dumps(error)) if isinstance(error, errors.QwenConvError) else ""
    for one in chain(error):
        yield f"{one} {one!r} {one.args} {vars(one)}"
        response = vars(one).get("response")
        requests = [vars(one).get("request"), vars(one).get("_request")]
        if response is not None:
            yield response.text + repr(response.content) + str([*response.headers.items()])
            requests.append(response.request)
        for request in filter(None, requests):
            yield str(request.url) + str([*request.headers.items()])


def on_langchain(way):
    def act(address):
        chat = ChatQwenConv(model=MODEL, api_key=KEY, base_url=address, max_retries=0)
        TAKE[way](chat, "hi")

    return act


def on_llamaindex(address):
    llm = QwenConv(model=MODEL, api_key=KEY, base_url=address, max_retries=0)
    list(llm.stream_chat([ChatMessage("hi")]))


def on_a_history(address):
    hub = QwenConversations(api_key=KEY, base_url=address, max_retries=0)
    QwenConvChatMessageHistory(conversation_id="conv_1", conversations=hub).add_user_message("hi")


def in_a_task(address):
    hub = QwenConversations(api_key=KEY, base_url=address, max_retries=0)
    asyncio.run(hub.arun(flows.read, "conv_1"))


LOOSE = [on_langchain("stream"), on_llamaindex, on_a_history, in_a_task]
ACTS = [
    *(pytest.param(on_langchain(way), id=f"langchain {way}") for way in ("invoke", "astream")),
    pytest.param(on_llamaindex, id="llamaindex"),
    pytest.param(on_a_history, id="history"),
    pytest.param(in_a_task, id="core"),
]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("echo", ECHOES)
def test_a_server_that_tells_the_key_again_makes_nobody_tell_it(act, echo, caplog):
    caplog.set_level(1)
    for library in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "qwen_conv"):
        caplog.set_level(1, library)
    with serving(echo) as (address, _), pytest.raises(Exception, match=r".") as raised:
        act(address)
    assert any(isinstance(one, errors.QwenConvError) for one in chain(raised.value))
    # What was sent as an answer is a local variable of who reads it, for as long as it is read.
    as_an_answer = echo in {in_an_http_200, in_an_event, in_an_event_of_failure}
    assert KEY not in "".join(told_by(raised.value, local_variables=not as_an_answer))
    assert KEY not in caplog.text
    assert KEY not in "".join(str(vars(record)) for record in caplog.records)


def test_the_key_is_blackened_and_not_the_reason(caplog):
    with serving(in_the_text) as (address, _), pytest.raises(errors.ServiceError) as raised:
        in_a_task(address)
    assert "bad Bearer [api key]" in str(raised.value)


@pytest.mark.parametrize(
    ("act", "status"),
    [*((in_a_task, status) for status in (301, 302, 303, 308)), *((act, 307) for act in LOOSE)],
)
def test_a_redirect_takes_nothing_along(act, status):
    with serving(lambda handler, _: handler.told(200, b"{}")) as (elsewhere, came):

        def leads_on(handler, _):
            handler.told(status, b"", location=f"{elsewhere}/responses")

        with (
            serving(leads_on) as (address, _),
            pytest.raises(errors.RequestRefusedError, match="pass that address as base_url"),
        ):
            act(address)
        assert came == []


# --- What is shown, dumped and kept -------------------------------------------------------------


@pytest.fixture
def objects(server):
    """Everything that a user has in hand, after a turn."""
    hub = QwenConversations(api_key=KEY, base_url=server.base_url, registry=MemoryRegistry())
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    own = ChatQwenConv(model=MODEL, api_key=KEY, base_url=server.base_url)
    llm = QwenConv(model=MODEL, api_key=KEY, base_url=server.base_url)
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    answer, *_ = chat.invoke("hi"), own.invoke("hi"), llm.chat([ChatMessage("hi")])
    api = hub.sync()
    return {
        "hub": hub,
        "api": api,
        "client": api._client,
        "session": hub.session("alice"),
        "row": hub.registry.get(hub.session("alice")),
        "chat": chat,
        "chat of its own": own,
        "bound": own.bind(stop=["x"]),
        "llm": llm,
        "history": history,
        "store": QwenConvChatStore(conversations=hub),
        "async store": QwenConvAsyncChatStore(conversations=hub),
        "answer": answer,
        "erased": hub.erase_session("alice"),
        "server": server,
        "requests": server.requests,
    }


def shown(one):
    """All ways of having an object shown or written down."""
    yield from (repr, str, lambda it: str(vars(it)) if hasattr(it, "__dict__") else "")
    for name in ("model_dump", "model_dump_json", "dict", "json", "to_dict", "to_json", "to_json"):
        if callable(getattr(one, name, None)):
            yield lambda it, name=name: str(getattr(it, name)())
    yield dumps
    yield pickle.dumps
    for name in ("_get_llm_string", "_get_ls_params", "_get_invocation_params"):
        if hasattr(one, name):
            yield lambda it, name=name: str(getattr(it, name)())
    for name in ("_identifying_params", "lc_attributes", "lc_secrets", "metadata"):
        if hasattr(one, name):
            yield lambda it, name=name: str(getattr(it, name))


@pytest.mark.filterwarnings("ignore")
def test_the_key_is_in_no_repr_dump_pickle_or_cache_key(objects):
    for name, one in objects.items():
        for way in shown(one):
            try:
                told = way(one)
            except (TypeError, ValueError, AttributeError, pickle.PicklingError):
                continue  # it is not made to be written down so
            told = told if isinstance(told, bytes) else str(told).encode()
            # The SDK's client has to have it; nobody prints its attributes.
            assert KEY.encode() not in told or (name == "client" and way not in {repr, str}), name


def test_the_key_came_in_the_header_it_belongs_in_and_in_no_other(server, objects):
    assert server.requests
    with serving(lambda handler, told: handler.told(200, b"{}", x_got=told)) as (address, came):
        hub = QwenConversations(api_key=KEY, base_url=address)
        with pytest.raises(errors.ServiceFailedError):
            hub.run(flows.create)
    assert came == ["/v1/conversations"]


def test_the_key_is_in_no_database(server, tmp_path):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        hub = QwenConversations(api_key=KEY, base_url=server.base_url, registry=registry)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        chat.invoke("hi")
        chat.invoke([HumanMessage("ho"), AIMessage("no"), HumanMessage("hi")])  # rebased
        history = QwenConvChatMessageHistory("alice", conversations=hub)
        history.add_messages([HumanMessage("hi", name="alice")])
        store = QwenConvChatStore(conversations=hub)
        store.add_message("bob", ChatMessage("hi"))
        assert registry.responses(hub.base_url, registry.get(hub.session("alice")).conversation_id)
        files = [path.read_bytes() for path in tmp_path.iterdir()]
        hub.close()
    assert any(b"alice" in each for each in files)
    assert not any(KEY.encode() in each for each in files)


# --- The environment, and the address -----------------------------------------------------------

GARBAGE = {
    "OPENAI_API_KEY": "leaked-key",
    "OPENAI_ADMIN_KEY": "leaked-admin",
    "OPENAI_ORG_ID": "leaked-org",
    "OPENAI_ORGANIZATION": "leaked-org",
    "OPENAI_PROJECT_ID": "leaked-project",
    "OPENAI_WEBHOOK_SECRET": "leaked-webhook",
    "OPENAI_BASE_URL": "https://leaked.example.com/v1",
    "OPENAI_API_BASE": "https://leaked.example.com/v1",
    "OPENAI_API_TYPE": "azure",
    "OPENAI_API_VERSION": "leaked-version",
    "OPENAI_PROXY": "http://leaked.example.com",
    "OPENAI_CUSTOM_HEADERS": "X-Leaked: leaked-header\nAuthorization: Bearer leaked",
    "OPENAI_LOG": "",
}


@pytest.mark.parametrize("way", WAYS)
def test_no_variable_of_openai_reaches_a_turn(way, server, monkeypatch):
    for name, value in GARBAGE.items():
        monkeypatch.setenv(name, value)
    chat = ChatQwenConv(model=MODEL, api_key=KEY, base_url=server.base_url, session_id="alice")
    TAKE[way](chat, "hi")
    QwenConv(model=MODEL, api_key=KEY, base_url=server.base_url).chat([ChatMessage("hi")])
    assert len(server.requests) == 3
    assert "leaked" not in str(server.requests)


def test_a_key_of_openai_is_no_key_of_qwen(monkeypatch):
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    for name, value in GARBAGE.items():
        monkeypatch.setenv(name, value)
    for make in (QwenConversations, lambda: ChatQwenConv(model=MODEL), lambda: QwenConv(model="m")):
        with pytest.raises(Exception, match="DASHSCOPE_API_KEY"):
            make()


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost.evil.com/v1",
        "http://127.0.0.1.nip.io/v1",
        "http://127.0.0.1@evil.com/v1",
        "http://127.0.0.1:80@evil.com/v1",
        "http://localhost\\@evil.com/v1",
        "http://evil.com#@localhost/v1",
        "http://evil.com?@localhost/v1",
        "http://evil.com\\.localhost/v1",
        "http://evil.com/v1?x=127.0.0.1",
        "http://evil.localhost.com/v1",
        "http://localhost\n.evil.com/v1",
        "http://local\thost/v1",
        "http://127.0.0.1 .evil.com/v1",
        "http://0x7f.1/v1",
        "http://2130706433/v1",
        "http://127.1/v1",
        "http://0177.0.0.1/v1",
        "http://0.0.0.0/v1",
        "http://127.0.0.999/v1",
        "http://127.0.0.\u0661/v1",
        "http://ⓛocalhost/v1",
        "http://[::ffff:10.0.0.1]/v1",
        "http://[::1/v1",
        "http://[localhost]/v1",
        "http://localhost:port/v1",
        "http:///v1",
        "http://10.0.0.1/v1",
        "http://[fe80::1]/v1",
        "//localhost/v1",
        "file:///etc/passwd",
        "HTTP://EXAMPLE.COM/v1",
        "http+unix://localhost/v1",
        "javascript://localhost/v1",
        "https://example.com/v1?key=1",
        "https://example.com/v1#here",
        "https://exam\nple.com/v1",
    ],
)
def test_a_key_is_not_sent_unencrypted_whatever_the_address_looks_like(url):
    with pytest.raises(errors.UsageError):
        QwenConversations(api_key=KEY, base_url=url)
    with pytest.raises(ValueError, match=r"."):
        ChatQwenConv(model=MODEL, api_key=KEY, base_url=url)


@pytest.mark.parametrize(
    "url", ["http://[::1]:80/v1", "http://LOCALHOST/v1", "http://127.9.9.9/v1", "HTTPS://X.org"]
)
def test_an_address_of_this_machine_or_an_encrypted_one_is_taken(url):
    assert checked_base_url(url) == url


def test_an_address_that_carries_a_password_does_not_have_it_told():
    with pytest.raises(errors.UsageError) as raised:
        QwenConversations(api_key=KEY, base_url=f"https://user:{KEY}@example.com/v1")
    assert KEY not in str(raised.value)


# --- What the server sends is data --------------------------------------------------------------

CONSTRUCTOR = {
    "lc": 1,
    "type": "constructor",
    "id": ["langchain_core", "messages", "HumanMessage"],
    "kwargs": {"content": "loaded"},
}
SECRET = {"lc": 1, "type": "secret", "id": ["DASHSCOPE_API_KEY"]}
LOADS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}


def sources():
    for package in ("qwen_conv", "langchain_qwen_conv", "llamaindex_qwen_conv"):
        for path in (ROOT / package).rglob("*.py"):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def test_no_module_of_ours_loads_anything_but_json():
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                named = {str(node.module).partition(".")[0]}
                assert not str(node.module).startswith("langchain_core.load"), path
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                named = {node.func.id} & {"eval", "exec", "compile", "__import__"}
                assert not named, path
            else:
                continue
            assert not named & LOADS, path


@pytest.mark.parametrize("told", [CONSTRUCTOR, SECRET])
def test_what_looks_like_an_object_of_langchain_comes_back_as_a_text(server, told, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    text = json.dumps(told)
    server.script = always(text)
    hub = QwenConversations(api_key=KEY, base_url=server.base_url, registry=MemoryRegistry())
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    assert chat.invoke(text).content == text
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    assert [message.content for message in history.messages] == [text, text]
    store = QwenConvChatStore(conversations=hub)
    assert [message.content for message in store.get_messages("alice")] == [text, text]


@pytest.mark.parametrize("told", [CONSTRUCTOR, SECRET])
def test_what_a_tool_call_and_its_result_hold_comes_back_as_data(server, told, tmp_path):
    call = {"name": "f", "args": {"x": told, "lc": 1}, "id": "c1", "type": "tool_call"}
    given = [
        HumanMessage("hi", additional_kwargs={"x": told}),
        AIMessage("", tool_calls=[call]),
        ToolMessage(json.dumps(told), tool_call_id="c1", artifact=told),
    ]
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        hub = QwenConversations(api_key=KEY, base_url=server.base_url, registry=registry)
        QwenConvChatMessageHistory("alice", conversations=hub).add_messages(given)
        again = QwenConvChatMessageHistory("alice", conversations=hub).messages
    assert again[0].additional_kwargs["x"] == told
    assert again[1].tool_calls == [call]
    assert (again[2].content, again[2].artifact) == (json.dumps(told), told)


def test_metadata_that_looks_like_an_object_stays_text(server):
    hub = QwenConversations(api_key=KEY, base_url=server.base_url)
    made = hub.run(flows.create, metadata={"x": json.dumps(CONSTRUCTOR)})
    told = hub.run(flows.send, RetrieveConversation(made.id)).metadata
    assert told["x"] == json.dumps(CONSTRUCTOR)
    assert said(server, made.id) == []

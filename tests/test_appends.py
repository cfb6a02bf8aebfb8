"""Addings of many messages that fail half-way: the same again finishes them, each message once."""

import asyncio
import http.client
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from conftest import another_process, said
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.llms import ChatMessage
from lossy import relayed

from langchain_qwen_conv import QwenConvChatMessageHistory
from llamaindex_qwen_conv import QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.items import Message
from qwen_conv.ledger import Ledger
from qwen_conv.offline import OfflineServer
from qwen_conv.registry import MemoryRegistry

FAULTS = (
    "stored, no reply",
    "not stored, no reply",
    "stored late",
    "500",
    "500, stored",
    "504 late",
)


class Trouble(ThreadingHTTPServer):
    """Stands before a server, and fails the next request that creates items once it is armed.

    What is stored late is stored once the items were listed in vain.
    """

    daemon_threads = True

    def __init__(self, base_url):
        super().__init__(("127.0.0.1", 0), Passing)
        url = urlsplit(base_url)
        self.behind = url.netloc
        self.base_url = url._replace(netloc=f"127.0.0.1:{self.server_address[1]}").geturl()
        self.fault, self.in_requests, self.late = None, 0, []

    def arm(self, hub, fault, in_requests=1):
        self.fault, self.in_requests = fault, in_requests
        hub.settle_timeout = 60.0 if "late" in fault else 0.0

    def due(self, method, path):
        if method != "POST" or not path.endswith("/items") or self.fault is None:
            return None
        self.in_requests -= 1
        if self.in_requests:
            return None
        fault, self.fault = self.fault, None
        return fault


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def carry_out(self, command, path, body, headers):
        behind = http.client.HTTPConnection(self.server.behind)
        behind.request(command, path, body, headers)
        answer = behind.getresponse()
        told = answer.status, answer.read()
        behind.close()
        return told

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)) or None
        asked = (self.command, self.path, body, dict(self.headers))
        fault = self.server.due(self.command, self.path)
        status, told = 500, b'{"code": "InternalError", "message": "no"}'
        if fault is None or fault in {"stored, no reply", "500, stored"}:
            result = self.carry_out(*asked)
            status, told = result if fault is None else (status, told)
        if fault in {"stored late", "504 late"}:
            status = 504
            self.server.late.append(asked)
        if fault is not None and (fault.endswith("no reply") or fault == "stored late"):
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        if self.command == "GET" and urlsplit(self.path).path.endswith("/items"):
            while self.server.late:
                self.carry_out(*self.server.late.pop())
        self.wfile.write(told)

    do_GET = do_DELETE = do_POST  # noqa: N815 - the names of http.server

    def log_message(self, *args):
        """Says nothing."""


@contextmanager
def trouble_before(server):
    with Trouble(server.base_url) as trouble:
        thread = threading.Thread(target=trouble.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield trouble
        finally:
            trouble.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def standing():
    with OfflineServer() as server, trouble_before(server) as trouble:
        trouble.server = server
        hub = QwenConversations(api_key="any", base_url=trouble.base_url)
        trouble.client = hub.sync()._client
        yield trouble
        hub.close()


@pytest.fixture
def trouble(standing):
    standing.late.clear()
    standing.fault = None
    return standing


@pytest.fixture
def hub(trouble):
    return a_process(trouble, MemoryRegistry())


def a_process(trouble, registry):
    hub = QwenConversations(
        api_key="any",
        base_url=trouble.base_url,
        registry=registry,
        max_retries=0,
    )
    hub._client = trouble.client
    hub.ledger = Ledger()
    return hub


class Adding:
    """One way of adding messages to a conversation."""

    def __init__(self, hub, way):
        self.hub, self.way = hub, way
        self.history = QwenConvChatMessageHistory("alice", conversations=hub)
        self.store = QwenConvChatStore(conversations=hub)
        self.made, self.before = None, []

    def begin(self):
        """The conversation, which says something already."""
        self("first")
        return self.conversation

    @property
    def conversation(self):
        row = self.hub.registry.get(self.hub.session("alice"))
        return self.made or row.conversation_id

    def __call__(self, *texts):
        roles = [("user", "assistant")[n % 2] for n in range(len(texts))][::-1]
        pairs = [*zip(roles, texts, strict=True)]
        match self.way:
            case "flow" | "flow, awaited":
                items = [Message.of(role, text) for role, text in pairs]
                if self.made is None:
                    self.made = self.hub.run(flows.create).id
                if self.way == "flow":
                    return self.hub.run(flows.append, self.made, items)
                return asyncio.run(self.hub.arun(flows.append, self.made, items))
            case "history" | "history, awaited":
                kinds = {"user": HumanMessage, "assistant": AIMessage}
                messages = [kinds[role](text) for role, text in pairs]
                if self.way == "history":
                    return self.history.add_messages(messages)
                return asyncio.run(self.history.aadd_messages(messages))
            case "store" | "store, awaited":
                messages = [ChatMessage(text, role=role) for role, text in pairs]
                if self.way == "store":
                    self.store.set_messages("alice", [*self.before, *messages])
                    self.before += messages
                    return None
                store = QwenConvAsyncChatStore(conversations=self.hub)
                return asyncio.run(store.add_messages("alice", messages))


WAYS = ("flow", "flow, awaited", "history", "history, awaited", "store", "store, awaited")


@pytest.fixture(params=WAYS)
def adding(request, hub):
    return Adding(hub, request.param)


def held(trouble, conversation):
    return [line.partition(": ")[2] for line in said(trouble.server, conversation)]


def numbered(count):
    return [f"message {number}" for number in range(count)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("count", "at"), [(45, 1), (45, 2), (45, 3)])
def test_the_same_again_writes_every_message_once_and_in_order(trouble, adding, fault, count, at):
    conversation = adding.begin()
    trouble.arm(adding.hub, fault, at)
    with pytest.raises((errors.NoReplyError, errors.ServiceFailedError, errors.PartlyWrittenError)):
        adding(*numbered(count))
    adding(*numbered(count))
    assert held(trouble, conversation) == ["first", *numbered(count)]


@pytest.mark.parametrize("fault", FAULTS)
def test_messages_of_which_some_go_with_the_creation_are_written_once(trouble, hub, fault):
    for way in ("history", "store"):
        adding = Adding(a_process(trouble, MemoryRegistry()), way)
        trouble.arm(adding.hub, fault)
        with pytest.raises(errors.PartlyWrittenError):
            adding(*numbered(45))
        adding(*numbered(45))
        assert held(trouble, adding.conversation) == numbered(45)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_conversation_that_was_created_in_part_is_finished_by_creating_it_again(
    trouble, hub, fault
):
    items = [Message.of("user", text) for text in numbered(45)]
    trouble.arm(hub, fault, 2)
    with pytest.raises(errors.PartlyWrittenError) as raised:
        hub.run(flows.create, items, {"topic": "numbers"})
    assert (raised.value.written, raised.value.total) == (40, 45)
    made = hub.run(flows.create, items, {"topic": "numbers"})
    assert held(trouble, made.id) == numbered(45)
    assert hub.run(flows.create, items, {"topic": "numbers"}).id != made.id


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_conversation_ends_with_is_not_taken_for_the_same_said_again(trouble, adding, fault):
    conversation = adding.begin()
    adding("yes")
    trouble.arm(adding.hub, fault)
    with pytest.raises((errors.NoReplyError, errors.ServiceFailedError)):
        adding("yes")
    adding("yes")
    assert held(trouble, conversation) == ["first", "yes", "yes"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["history", "store"])
def test_nor_is_what_a_conversation_was_created_with(trouble, way, fault):
    adding = Adding(a_process(trouble, MemoryRegistry()), way)
    adding("yes")
    trouble.arm(adding.hub, fault)
    with pytest.raises((errors.NoReplyError, errors.ServiceFailedError)):
        adding("yes")
    adding("yes")
    assert held(trouble, adding.conversation) == ["yes", "yes"]


@pytest.mark.parametrize("fault", FAULTS)
def test_so_it_is_with_a_hundred_messages_and_with_a_few(trouble, hub, fault):
    for count, at in ((3, 1), (21, 2), (100, 5)):
        adding = Adding(a_process(trouble, MemoryRegistry()), "flow")
        conversation = adding.begin()
        trouble.arm(adding.hub, fault, at)
        with pytest.raises(
            (errors.NoReplyError, errors.ServiceFailedError, errors.PartlyWrittenError)
        ):
            adding(*numbered(count))
        assert [item.text for item in adding(*numbered(count))] == numbered(count)
        assert held(trouble, conversation) == ["first", *numbered(count)]


@pytest.mark.parametrize("fault", FAULTS)
def test_where_nothing_was_known_before_nothing_is_guessed(trouble, fault):
    conversation = Adding(a_process(trouble, MemoryRegistry()), "flow").begin()
    hub = a_process(trouble, MemoryRegistry())
    again = (Message.of("user", "first"),)
    trouble.arm(hub, fault)
    with pytest.raises((errors.NoReplyError, errors.ServiceFailedError)):
        hub.run(flows.append, conversation, again)
    for _ in range(2):
        with pytest.raises(errors.NoReplyError, match="Read it"):
            hub.run(flows.append, conversation, again)
    missing = 2 - len(hub.run(flows.read, conversation))
    if missing:
        hub.run(flows.append, conversation, again)
    assert held(trouble, conversation) == ["first", "first"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_process_that_only_adds_finishes_what_was_lost(trouble, fault):
    conversation = Adding(a_process(trouble, MemoryRegistry()), "flow").begin()
    hub = a_process(trouble, MemoryRegistry())
    items = [Message.of("user", text) for text in numbered(45)]
    trouble.arm(hub, fault, 2)
    with pytest.raises(errors.PartlyWrittenError):
        hub.run(flows.append, conversation, items)
    hub.run(flows.append, conversation, items)
    assert held(trouble, conversation) == ["first", *numbered(45)]


@pytest.mark.parametrize("unknown_after", ["refused", "ignored"])
@pytest.mark.parametrize("fault", ["stored, no reply", "not stored, no reply"])
def test_the_item_before_may_be_deleted_meanwhile(unknown_after, fault):
    with OfflineServer(unknown_after=unknown_after) as server, trouble_before(server) as trouble:
        hub = QwenConversations(api_key="any", base_url=trouble.base_url)
        made = hub.run(flows.create).id
        (first,) = hub.run(flows.append, made, [Message.of("user", "first")])
        items = [Message.of("user", text) for text in numbered(3)]
        trouble.arm(hub, fault)
        with pytest.raises(errors.NoReplyError):
            hub.run(flows.append, made, items)
        hub.run(flows.remove, made, [first])
        hub.run(flows.append, made, items)
        assert [line.partition(": ")[2] for line in said(server, made)] == numbered(3)
        hub.close()


def test_a_store_that_is_read_before_it_is_told_again_waits_for_what_comes_late(trouble):
    adding = Adding(a_process(trouble, MemoryRegistry()), "store")
    conversation = adding.begin()
    trouble.arm(adding.hub, "stored late")
    with pytest.raises(errors.NoReplyError):
        adding("late")
    adding.store.get_messages("alice")
    adding("late")
    assert held(trouble, conversation) == ["first", "late"]


def test_a_role_that_the_service_rewrites_does_not_hide_what_was_written():
    with (
        OfflineServer(system_role="user") as server,
        trouble_before(server) as trouble,
    ):
        hub = QwenConversations(api_key="any", base_url=trouble.base_url)
        made = hub.run(flows.create).id
        trouble.arm(hub, "stored, no reply")
        for _ in range(2):
            try:
                hub.run(flows.append, made, [Message.of("system", "Be brief.")])
            except errors.NoReplyError:
                continue
        assert len(server.items(made)) == 1
        hub.close()


def test_a_cancelled_adding_is_finished_too(server):
    items = [Message.of("user", text) for text in numbered(45)]
    arrived, released = threading.Event(), threading.Event()

    def is_held(request):
        arrived.set()
        released.wait(10)
        request.answer(request.carry_out())

    async def cancelled(hub, made):
        adding = asyncio.create_task(hub.arun(flows.append, made, items))
        await asyncio.to_thread(arrived.wait, 10)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        released.set()

    with relayed(server.base_url) as relay:
        relay.clock = server.clock
        hub = another_process(relay, settle_timeout=30)
        made = hub.run(flows.create).id
        relay.appends = [lambda request: request.answer(request.carry_out()), is_held]
        asyncio.run(cancelled(hub, made))
        stored = hub.run(flows.append, made, items)
        listed = [item["content"][0]["text"] for item in server.items(made)]
        assert [item.text for item in stored] == listed == numbered(45)


def test_what_is_refused_is_not_looked_for(trouble, hub):
    made = hub.run(flows.create).id
    wrong = [Message.of("user", text) for text in (*numbered(20), "")]
    for _ in range(2):
        trouble.server.requests.clear()
        with pytest.raises(errors.PartlyWrittenError):
            hub.run(flows.append, made, wrong)
    assert [one.method for one in trouble.server.requests] == ["POST"]
    assert held(trouble, made) == numbered(20)


def test_what_was_refused_for_now_is_added_again(server):
    refusals = iter([429, 429])
    with relayed(server.base_url) as relay:
        relay.refuses = lambda method, path: (
            next(refusals, None) if method == "POST" and path.endswith("/items") else None
        )
        hub = QwenConversations(api_key="any", base_url=relay.base_url)
        conversation = hub.run(flows.create).id
        hub.run(flows.append, conversation, [Message.of("user", "one")])
    assert said(server, conversation) == ["user: one"]

"""Lists of servers that misbehave: read complete and in order, or refused; never less, no loop."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_qwen_conv import QwenConvChatMessageHistory
from llamaindex_qwen_conv import QwenConvChatStore
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.items import Message, OtherItem
from qwen_conv.ledger import Ledger
from qwen_conv.pages import LOST_CURSORS
from qwen_conv.registry import MemoryRegistry

CONVERSATION = "conv_1"
SIZES = (0, 1, 2, 20, 21, 22, 100, 101, 102, 250)


class Lists:
    """What a server has in one conversation, and how it lists that.

    Attributes:
        items: The items, oldest first.
        cap: How many items it lists at most, whatever is asked for.
        has_more: What it says of whether more follow: "right", "missing", "always", "never".
        last_id: What it names as the last item's: "right", "missing", "first".
        order: Which orders it lists in: "heeded", or always "newest" or "oldest".
        unknown: What it does where it does not know the item to go on behind: "404", "400", or
            "restarts".
        overlap: How many items of the last page it lists again.
        deaf: Whether it takes no notice of where to go on.
        goes: Called before each answer, with the number of the request.
    """

    def __init__(self, items, **habits):
        self.items = items
        self.cap, self.has_more, self.last_id, self.order = 100, "right", "right", "heeded"
        self.unknown, self.overlap, self.deaf = "404", 0, False
        self.goes = lambda _number: None
        self.asked = []
        vars(self).update(habits)

    def answer(self, path, query):
        self.goes(len(self.asked))
        self.asked.append(query)
        if not path.endswith("/items"):
            return 200, {"id": CONVERSATION, "object": "conversation", "metadata": {}}
        listed = self.items[:]
        if self.order == "newest" or (self.order == "heeded" and query["order"] == "desc"):
            listed.reverse()
        start, after = 0, query.get("after")
        if after is not None and not self.deaf:
            place = next((n for n, one in enumerate(listed) if one.get("id") == after), None)
            if place is not None:
                start = max(0, place + 1 - self.overlap)
            elif self.unknown != "restarts":
                return int(self.unknown), {"code": "x", "message": f"Item {after} not found"}
        size = min(int(query["limit"]), self.cap() if callable(self.cap) else self.cap)
        page, rest = listed[start : start + size], listed[start + size :]
        told = {"data": page, "object": "list"}
        if self.has_more != "missing":
            told["has_more"] = {"right": bool(rest), "always": True, "never": False}[self.has_more]
        if self.last_id != "missing" and page:
            last = page[0 if self.last_id == "first" else -1]
            told["last_id"] = last.get("id") if isinstance(last, dict) else None
        return 200, told


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lists: Lists
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        url = urlsplit(self.path)
        status, told = self.server.lists.answer(url.path, dict(parse_qsl(url.query)))
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Says nothing."""


@pytest.fixture(scope="module")
def standing():
    """A server on loopback; `lists` is what it has."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client = QwenConversations(api_key="any", base_url=base_url(server))
        server.client = client.sync()._client
        yield server
        client.close()
        server.shutdown()
        thread.join()


def base_url(server):
    return f"http://127.0.0.1:{server.server_port}/v1"


def a_process(server, lists):
    """A hub that knows nothing yet, before a server that has these lists."""
    server.lists = lists
    registry = MemoryRegistry()
    hub = QwenConversations(
        api_key="any",
        base_url=base_url(server),
        client=server.client,
        registry=registry,
        max_retries=0,
    )
    hub.ledger = Ledger()
    registry.bind(hub.session("alice"), CONVERSATION)
    return hub


def talk(count):
    """A conversation: somebody asks, somebody answers."""
    roles = ("user", "assistant")
    return [message(number, roles[number % 2]) for number in range(count)]


def message(number, role="user", **more):
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": f"message {number}"}]
    return {"type": "message", "id": f"msg_{number}", "role": role, "content": content, **more}


def words(lists):
    return [one["content"][0]["text"] for one in lists.items]


def by_flow(hub):
    return [item.text for item in hub.run(flows.read, CONVERSATION)]


def by_history(hub):
    return [one.text for one in QwenConvChatMessageHistory("alice", conversations=hub).messages]


def by_iterator(hub):
    history = QwenConvChatMessageHistory(conversation_id=CONVERSATION, conversations=hub)
    return [one.text for one in history.iter_messages()]


def by_last(hub):
    history = QwenConvChatMessageHistory(conversation_id=CONVERSATION, conversations=hub)
    return [one.text for one in history.last_messages(1000)]


def by_store(hub):
    return [one.content for one in QwenConvChatStore(conversations=hub).get_messages("alice")]


READINGS = (by_flow, by_history, by_iterator, by_last, by_store)

HABITS = [
    {},
    {"cap": 20},
    {"cap": 7},
    {"cap": 1000},
    {"has_more": "missing"},
    {"has_more": "missing", "cap": 20},
    {"has_more": "always"},
    {"has_more": "never"},
    {"has_more": "never", "cap": 20},
    {"has_more": "never", "cap": 20},
    {"last_id": "missing"},
    {"last_id": "first"},
    {"overlap": 1},
    {"overlap": 5, "cap": 20},
    {"order": "newest"},
    {"order": "newest", "cap": 20},
    {"order": "newest", "has_more": "missing", "last_id": "missing"},
    {"order": "newest", "has_more": "never", "cap": 20},
    {"order": "oldest"},
    {"order": "oldest", "cap": 20},
]


@pytest.mark.parametrize("habits", HABITS, ids=repr)
@pytest.mark.parametrize("reading", READINGS)
def test_a_conversation_is_read_whole_and_in_order_whatever_its_lists_are_like(
    standing, reading, habits
):
    takes_no_notice = habits.get("order", "heeded") != "heeded"
    for size in SIZES if reading is by_flow else (2, 20, 102, 250):
        if takes_no_notice and size % 2:
            continue  # who asks last as first cannot be told from who asks first as last
        lists = Lists(talk(size), **habits)
        hub = a_process(standing, lists)
        assert reading(hub) == words(lists)
        first = len(lists.asked)
        assert reading(hub) == words(lists)  # what was learned does not lead astray
        assert first <= 3 * (size // lists.cap + 3)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("unknown", ["404", "400", "restarts"])
@pytest.mark.parametrize("gone", [1, 20])
@pytest.mark.parametrize("has_more", ["right", "missing"])
def test_what_vanishes_between_two_pages_hides_nothing(standing, reading, unknown, gone, has_more):
    """The item that was listed last is deleted, and some before it, when it is to be gone behind."""
    lists = Lists(talk(65), unknown=unknown, cap=20, has_more=has_more)
    end = slice(40 - gone, 40) if reading is not by_last else slice(25, 25 + gone)
    before = words(lists)
    lists.goes = lambda number: number == 2 and lists.items.__delitem__(end)
    found = reading(a_process(standing, lists))
    assert [one for one in found if one in words(lists)] == words(lists)
    assert found == [one for one in before if one in found]


@pytest.mark.parametrize("reading", READINGS)
def test_everything_that_expires_in_between_leaves_what_came_behind(standing, reading):
    lists = Lists(talk(60), cap=20)
    lists.goes = lambda number: number == 1 and lists.items.__delitem__(slice(0, 30))
    found = reading(a_process(standing, lists))
    assert found[-30:] == words(lists)


@pytest.mark.parametrize("reading", READINGS)
def test_what_others_add_meanwhile_is_read_or_not_and_nothing_else_is_lost(standing, reading):
    lists = Lists(talk(250))
    lists.goes = lambda number: (
        number in {1, 2}
        and lists.items.extend([message(250 + 2 * number), message(251 + 2 * number, "assistant")])
    )
    found = reading(a_process(standing, lists))
    assert found[:250] == words(lists)[:250]
    assert found == words(lists)[: len(found)]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("has_more", ["right", "missing", "always", "never"])
def test_a_server_that_repeats_its_first_page_is_refused(standing, reading, has_more):
    lists = Lists(talk(250), deaf=True, has_more=has_more)
    with pytest.raises(errors.ServiceFailedError, match="came twice"):
        reading(a_process(standing, lists))
    assert len(lists.asked) < 12


@pytest.mark.parametrize("reading", READINGS)
def test_who_told_the_truth_of_one_conversation_is_not_believed_of_another(standing, reading):
    hub = a_process(standing, Lists(talk(250)))
    by_flow(hub)
    standing.lists = Lists(talk(150), has_more="never")
    assert reading(hub) == words(standing.lists)


@pytest.mark.parametrize("has_more", ["right", "never", "missing"])
def test_a_page_that_is_empty_in_the_middle_is_asked_for_again(standing, has_more):
    lists = Lists(talk(250), has_more=has_more)
    empty = [1]
    lists.cap = lambda: 0 if "after" in lists.asked[-1] and empty and empty.pop() else 100
    assert by_flow(a_process(standing, lists)) == words(lists)
    lists.cap = lambda: 0 if "after" in lists.asked[-1] else 100
    with pytest.raises(errors.ServiceFailedError, match="what stands behind"):
        by_flow(a_process(standing, lists))


@pytest.mark.parametrize("unknown", ["404", "restarts"])
def test_a_server_that_never_goes_on_behind_an_item_is_refused(standing, unknown):
    lists = Lists(talk(250), cap=20, unknown=unknown)
    lists.goes = lambda number: lists.items.__setitem__(
        slice(None), [{**one, "id": f"msg_{number}_{n}"} for n, one in enumerate(lists.items)]
    )
    with pytest.raises((errors.ServiceFailedError, errors.ItemNotFoundError)):
        by_flow(a_process(standing, lists))
    assert len(lists.asked) < 200


def test_a_server_that_lists_the_last_items_again_and_again_is_read_to_its_end(standing):
    lists = Lists(talk(50), overlap=5, cap=20, has_more="always")
    assert by_flow(a_process(standing, lists)) == words(lists)
    lists = Lists(talk(50), overlap=5, cap=5, has_more="always")  # which does not get on
    with pytest.raises(errors.ServiceFailedError, match="came twice"):
        by_flow(a_process(standing, lists))


def test_an_order_that_nothing_shows_is_an_error_and_what_was_written_shows_it(standing):
    lists = Lists([message(number) for number in range(3)], order="newest")
    hub = a_process(standing, lists)
    with pytest.raises(errors.ServiceFailedError, match="takes no notice of `order`"):
        by_flow(hub)
    lists.items = talk(4)
    assert by_flow(hub) == words(lists)
    lists.items = [message(number) for number in range(3)]
    assert by_flow(hub) == words(lists)


def test_whether_the_order_is_heeded_is_asked_once(standing):
    lists = Lists([message(number) for number in range(3)])
    hub = a_process(standing, lists)
    for requests in (2, 3, 4):
        assert by_flow(hub) == words(lists)
        assert len(lists.asked) == requests
    assert by_flow(a_process(standing, Lists(talk(4)))) == words(Lists(talk(4)))
    assert len(standing.lists.asked) == 1  # somebody asked, somebody answered


@pytest.mark.parametrize("order", ["heeded", "newest", "oldest"])
def test_what_stands_behind_an_item_is_what_came_later(standing, order):
    lists = Lists(talk(32), order=order)
    hub = a_process(standing, lists)
    for place in (10, 29, 30, 31, 0):
        found = hub.run(flows.read, CONVERSATION, f"msg_{place}")
        assert [item.text for item in found] == words(lists)[place + 1 :]


def test_items_of_every_kind_are_read(standing):
    odd = [
        message(0),
        {"type": "web_extractor_call", "id": "w_1", "urls": ["https://example.com"]},
        {"type": "message", "id": "msg_2", "role": "user", "content": "plain text"},
        {"type": "message", "id": "msg_3", "role": "assistant", "content": None},
        {"type": "message", "id": "msg_4", "content": [{"type": "input_text", "text": "whose?"}]},
        {"type": "message", "id": "msg_5", "role": None, "content": "whose?"},
        {"type": "hologram", "role": "assistant", "id": "h_6"},
        message(7, "assistant"),
    ]
    items = a_process(standing, Lists(odd)).run(flows.read, CONVERSATION)
    assert [item.id for item in items] == [one["id"] for one in odd]
    assert items[1] == OtherItem(odd[1])
    assert items[2] == Message.of("user", "plain text")
    assert items[3] == Message("assistant", ())
    assert items[4] == items[5] == Message.of("user", "whose?")
    assert items[6] == OtherItem(odd[6])
    history = QwenConvChatMessageHistory("alice", conversations=a_process(standing, Lists(odd)))
    assert [one.text for one in history.messages if one.text] == [
        "message 0",
        "plain text",
        "whose?",
        "whose?",
        "message 7",
    ]


@pytest.mark.parametrize("broken", [None, "text", 7, {"type": "message", "content": 7}])
def test_what_is_no_item_is_refused_and_not_dropped(standing, broken):
    with pytest.raises(errors.ServiceFailedError):
        by_flow(a_process(standing, Lists([*talk(2), broken])))


def test_items_without_ids_are_read_where_nothing_has_to_be_told_apart(standing):
    nameless = [{name: one[name] for name in ("type", "role", "content")} for one in talk(30)]
    assert by_flow(a_process(standing, Lists(nameless))) == words(Lists(nameless))
    with pytest.raises(errors.ServiceFailedError, match="what to go on behind"):
        by_flow(a_process(standing, Lists(nameless, cap=20)))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_server_has_less_read_than_there_is_or_more_or_another_order(standing, data):
    size = data.draw(st.sampled_from([0, 1, 2, 3, 10, 20, 21, 40, 99, 100, 101]))
    has_more = data.draw(st.sampled_from(["right", "missing", "always", "never"]))
    caps = st.sampled_from([20, 100]) if has_more == "never" else st.integers(1, 100)
    cap = data.draw(caps)
    if has_more != "never" and data.draw(st.booleans()):
        sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
        cap = lambda: sizes[len(lists.asked) % len(sizes)]  # noqa: E731 - each page another
    lists = Lists(
        talk(size),
        cap=cap,
        has_more=has_more,
        last_id=data.draw(st.sampled_from(["right", "missing", "first"])),
        order=data.draw(st.sampled_from(["heeded", "newest", "oldest"])),
        unknown=data.draw(st.sampled_from(["404", "400", "restarts"])),
        overlap=data.draw(st.integers(0, 3)),
        deaf=data.draw(st.sampled_from([False, False, False, True])),
    )
    reading = data.draw(st.sampled_from(READINGS))
    hub = a_process(standing, lists)
    for _ in range(2):
        lists.asked.clear()
        try:
            found = reading(hub)
        except errors.QwenConvError:
            found = None
        assert len(lists.asked) <= 2 * (LOST_CURSORS + 1) * (size + 3)
        if found is not None:
            assert found == words(lists)

"""Nobody gets at a conversation that is not theirs: not by an id, a key, a stamp or what is known."""

import unicodedata

import pytest
from click.testing import CliRunner
from conftest import MODEL, another_process, asked, astream, invoke, said
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.llms import ChatMessage
from llama_store import server, standing
from lossy import relayed
from test_outbox import LASTING, database

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from llamaindex_qwen_conv import QwenConv, QwenConvChatStore
from qwen_conv import QwenConversations, calls, chains, erasing, errors, flows
from qwen_conv.cli import main
from qwen_conv.items import Message
from qwen_conv.offline import OfflineServer
from qwen_conv.record import Record
from qwen_conv.registry import MemoryRegistry, Session, SqlRegistry
from qwen_conv.stamps import Stamp

HI = (Message.of("user", "hi"),)
HERE = "https://example.com/v1"


# --- Ids ----------------------------------------------------------------------------------------

REAL = f"conv_{'0a' * 16}"
WRONG = [
    "",
    "conv_",
    f"{REAL}/",
    f"{REAL}/items",
    f"{REAL}/../{REAL}",
    f"../conversations/{REAL}",
    f"./{REAL}",
    f"/{REAL}",
    "..",
    f"{REAL}/..",
    f"{REAL}%2e%2e",
    f"%2e%2e/{REAL}",
    f"{REAL}%2F..",
    f"{REAL}?limit=1",
    f"{REAL}#",
    f"{REAL};x=1",
    f"{REAL}\\..",
    f"{REAL}\r\nX-Injected: yes",
    f"{REAL}\n",
    f"{REAL}\0",
    f" {REAL}",
    f"{REAL} ",
    f"{REAL}\t",
    f"{REAL}\u00a0",
    f"{REAL}\u200b",
    f"{REAL}\u202e",
    f"\ufeff{REAL}",
    f"{REAL}．．",  # noqa: RUF001 - dots of full width
    REAL.replace("conv_", "conv＿"),  # noqa: RUF001
    REAL.replace("co", "со"),  # noqa: RUF001 - Cyrillic letters that look the same
    REAL.replace("0", "０"),  # noqa: RUF001 - digits of full width
    REAL.replace("0", "\u0660"),
    REAL.upper(),
    REAL.title(),
    REAL.removeprefix("conv_"),
    f"conv-{REAL}",
    f"{REAL},{REAL}",
    f"conv_{'a' * 5000}",
    7,
    True,
    ["conv_1"],
    {"id": "conv_1"},
]


def on_calls(wrong):
    yield from (
        lambda: calls.RetrieveConversation(wrong),
        lambda: calls.UpdateConversation(wrong, {}),
        lambda: calls.DeleteConversation(wrong),
        lambda: calls.CreateItems(wrong, HI),
        lambda: calls.ListItems(wrong),
        lambda: calls.RetrieveItem(wrong, "msg_1"),
        lambda: calls.DeleteItem(wrong, "msg_1"),
        lambda: calls.CreateResponse(MODEL, HI, conversation_id=wrong),
    )


def on_the_core(wrong, hub):
    yield lambda: hub.run(flows.read, wrong)
    yield lambda: hub.run(flows.append, wrong, HI)
    yield lambda: hub.run(flows.clear, wrong)
    yield lambda: hub.run(flows.delete, wrong)
    yield lambda: hub.run(erasing.erase, conversation_id=wrong)
    yield lambda: Record(hub, conversation_id=wrong)


def on_langchain(wrong, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub)
    config = {"configurable": {"qwen_conversation_id": wrong}}
    yield lambda: ChatQwenConv(model=MODEL, conversations=hub, conversation_id=wrong)
    yield lambda: chat.with_conversation(wrong)
    yield lambda: chat.invoke("hi", conversation_id=wrong)
    yield lambda: list(chat.stream("hi", conversation_id=wrong))
    yield lambda: astream(chat, "hi", conversation_id=wrong)
    yield lambda: chat.bind(conversation_id=wrong).invoke("hi")
    yield lambda: chat.with_config(config).invoke("hi")
    yield lambda: chat.invoke("hi", config)
    yield lambda: QwenConvChatMessageHistory(conversation_id=wrong, conversations=hub)


def on_llamaindex(wrong, hub):
    dump = QwenConvChatStore(conversations=hub).to_dict() | {"sessions": {"alice": wrong}}
    yield lambda: QwenConv(model=MODEL, conversations=hub, conversation_id=wrong)
    yield lambda: QwenConvChatStore.from_dict(dump, conversations=hub).get_messages("alice")


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: ascii(wrong)[:40])
def test_what_is_no_conversation_id_is_refused_wherever_one_is_taken(server, hub, wrong):
    acts = [
        *on_calls(wrong),
        *on_the_core(wrong, hub),
        *on_langchain(wrong, hub),
        *on_llamaindex(wrong, hub),
    ]
    for act in acts:
        with pytest.raises((ValueError, TypeError)):
            act()
    if isinstance(wrong, str) and "\0" not in wrong:
        told = CliRunner().invoke(
            main,
            ["erase", "--conversation", wrong],
            env={"DASHSCOPE_API_KEY": "any", "DASHSCOPE_BASE_URL": server.base_url},
        )
        assert told.exit_code == 1
        assert "not a conversation id" in told.output
    assert server.requests == []


def test_what_is_no_conversation_id_can_be_a_session_and_is_then_nobody_elses(server, hub):
    server._store.create(REAL, {})
    (item,) = hub.run(flows.append, REAL, [Message.of("user", "I am Alice.")])
    keys = [one for one in WRONG if isinstance(one, str) and one]
    places = {REAL}
    for key in keys:
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id=key)
        places.add(chat.invoke("hi").response_metadata["conversation_id"])
        assert "Alice" not in str(QwenConvChatStore(conversations=hub).get_messages(key))
    assert len(places) == len(keys) + 1
    assert said(server, REAL) == ["user: I am Alice."]
    server._store.remove(REAL, item.id)
    server._store.delete(REAL)


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "/", "a/b", "..", ".", "../x", "a/..", "%2e%2e", "a%2fb", "a?b", "a#b", "a\\b"),
        *("a b", " a", "a\n", "a\r\nX: y", "a\0", "a\t", "a\u200b", "a\u202eb", "a\u00a0"),
        *("x" * 5000, 7, None, b"a", ["a"]),
    ],
    ids=lambda wrong: ascii(wrong)[:40],
)
def test_what_is_no_id_of_an_item_or_a_response_is_refused(wrong):
    for call in (calls.RetrieveItem, calls.DeleteItem):
        with pytest.raises(errors.UsageError):
            call(REAL, wrong)
    for call in (calls.RetrieveResponse, calls.DeleteResponse, calls.ListInputItems):
        with pytest.raises(errors.UsageError):
            call(wrong)
    if wrong is not None:
        with pytest.raises(errors.UsageError):
            calls.ListItems(REAL, after=wrong)


@pytest.mark.parametrize("odd", ["．．", "‥", "résumé", "a:b@c", "a;b", "a&b=c", "а", "~", "a+b"])  # noqa: RUF001
def test_an_odd_id_stays_one_part_of_the_path(server, hub, odd):
    for call in (calls.RetrieveResponse(odd), calls.RetrieveItem(REAL, odd)):
        with pytest.raises(errors.NotFoundError):
            hub.run(flows.send, call)
    assert [request.path for request in server.requests] == [
        f"/responses/{odd}",
        f"/conversations/{REAL}/items/{odd}",
    ]
    assert all(request.query == {} for request in server.requests)


# --- Sessions -----------------------------------------------------------------------------------

COMPOSED, APART = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
KEYS = [
    *("alice", "Alice", "ALICE", "alice ", " alice", "alice\t", "alice\n", "al", "ali", "alicea"),
    *(COMPOSED, APART, "ﬁ", "fi", "ß", "ss", "İ", "i", "ı", "alice\u200b", "аlice"),  # noqa: RUF001
    *("a", "ab", "a:b", "a b", "a/b", "a|b", "b", "b:c", ":", "'", '"', "''", "a'b", "\\", "\\'"),
    *("%", "_", "a%", "a_", "*", "None", "null", "0", "00", "1", "1.0", "true", "default"),
    *(REAL, "conv_", "a', base_url='b", "Session()", "x" * 255, "x" * 254, "\U0001f600"),
]
PLACES = [
    Session(*place)
    for place in [
        *((namespace, key, HERE, "a1") for namespace in ("app", "App", "app ") for key in KEYS),
        *(("a:b", "c", HERE, "a1"), ("a", "b:c", HERE, "a1"), ("a b", "c", HERE, "a1")),
        *(("a', key='b", "c", HERE, "a1"), ("a", "b', key='c", HERE, "a1"), ("", "x", HERE, "a1")),
    ]
]
ELSEWHERE = [
    Session("app", "alice", *place)
    for place in [
        *(("https://EXAMPLE.com/v1", "a1"), ("https://example.com:443/v1", "a1")),
        *(("https://example.com/V1", "a1"), ("https://example.com/v1/x", "a1"), (HERE, "a2")),
        *((f"{HERE} a1", ""), ("https://example.com", "a1"), ("http://example.com/v1", "a1")),
    ]
]


@pytest.fixture(params=["in the process", "in memory", *LASTING[1:]])
def registry(request, tmp_path):
    if request.param == "in the process":
        yield MemoryRegistry()
        return
    with database(request.param, tmp_path) as url, SqlRegistry(url) as registry:
        yield registry


def test_every_session_is_another_one(registry):
    for number, session in enumerate(PLACES):
        assert registry.get(session) is None, session
        registry.bind(session, f"conv_{number}")
    for number, session in enumerate(PLACES):
        assert registry.get(session).conversation_id == f"conv_{number}", session
    registry.unbind(PLACES[0])
    assert registry.get(PLACES[0]) is None
    assert all(registry.get(session) for session in PLACES[1:])


@pytest.mark.parametrize("other", ELSEWHERE, ids=str)
def test_a_session_of_another_base_url_or_account_never_leads_to_the_same(registry, other):
    mine = Session("app", "alice", HERE, "a1")
    registry.bind(mine, "conv_1")
    for act in (
        lambda: registry.get(other),
        lambda: registry.bind(other, "conv_2"),
        lambda: registry.unbind(other),
        lambda: registry.former(other),
    ):
        try:
            found = act()
        except errors.SessionElsewhereError:
            continue
        assert not found or found.conversation_id == "conv_2"
    assert registry.get(mine).conversation_id == "conv_1"


def test_no_two_sessions_have_the_same_name_for_a_lock():
    every = [*PLACES, *ELSEWHERE]
    assert len({*map(str, every)}) == len(every) == len({*every})


@given(st.tuples(*[st.text("ab':, =()\\", max_size=6)] * 4), st.data())
def test_a_sessions_name_is_another_one_if_anything_of_it_is(told, data):
    other = data.draw(st.tuples(*[st.text("ab':, =()\\", max_size=6)] * 4))
    assert (str(Session(*told)) == str(Session(*other))) == (told == other)


@pytest.mark.parametrize("key", [REAL, f"{HERE} {REAL}", "x"])
def test_a_sessions_records_are_named_otherwise_than_any_conversations(hub, key):
    names = {Record(hub, session=key).target, Record(hub, conversation_id=REAL).target}
    assert len(names | {REAL, key}) == len({REAL, key}) + 2


def test_a_base_url_is_the_same_with_a_slash_at_its_end_and_with_nothing_else():
    def session(base_url):
        return QwenConversations(api_key="any", base_url=base_url).session("alice")

    assert session(HERE) == session(f"{HERE}/") == session(f" {HERE}// ")
    for other in ("https://example.com/v2", "https://example.org/v1", f"{HERE}/v1"):
        assert session(HERE) != session(other)


@pytest.mark.parametrize("take", [invoke, astream])
@pytest.mark.parametrize("others", [{"api_key": "another"}, {"namespace": "another"}])
def test_two_accounts_or_namespaces_with_one_key_have_two_conversations(server, take, others):
    registry = MemoryRegistry()
    settings = {"api_key": "any", "base_url": server.base_url, "registry": registry}
    hubs = [QwenConversations(**settings), QwenConversations(**{**settings, **others})]
    for name, hub in zip(("Alice", "Bob"), hubs, strict=True):
        take(ChatQwenConv(model=MODEL, conversations=hub, session_id="me"), f"I am {name}.")
    one, other = (hub.registry.get(hub.session("me")).conversation_id for hub in hubs)
    assert [said(server, place)[0] for place in (one, other)] == [
        "user: I am Alice.",
        "user: I am Bob.",
    ]
    hubs[0].forget_session("me")
    assert hubs[1].registry.get(hubs[1].session("me")).conversation_id == other
    hubs[0].erase_session("me")
    assert len(said(server, other)) == 2
    for hub in hubs:
        hub.close()


# --- What a process knows -----------------------------------------------------------------------


@pytest.fixture
def twins(server):
    """Two hubs of one process for which a conversation of the same id is another one."""
    with OfflineServer() as elsewhere:
        server._store.create(REAL, {})
        elsewhere._store.create(REAL, {})
        hubs = [
            QwenConversations(api_key="any", base_url=at.base_url) for at in (server, elsewhere)
        ]
        yield hubs, (server, elsewhere)
        for hub in hubs:
            hub.close()
        for item in server.items(REAL):
            server._store.remove(REAL, item["id"])
        server._store.delete(REAL)


@pytest.mark.parametrize("take", [invoke, astream])
def test_what_one_service_took_is_not_known_of_anothers_conversation(twins, take):
    (mine, others), (server, elsewhere) = twins
    mallory = ChatQwenConv(model=MODEL, conversations=others, conversation_id=REAL)
    given = [HumanMessage("hi"), AIMessage("ho"), HumanMessage("Who am I?")]
    take(mallory, given)
    another_process(server).run(flows.append, REAL, [Message.of("user", "I am Alice.")])
    server.requests.clear()
    alice = ChatQwenConv(model=MODEL, conversations=mine, conversation_id=REAL)
    with pytest.raises(errors.DivergedError):  # nothing vouches for that list here
        take(alice, given)
    assert said(server, REAL) == ["user: I am Alice."]
    take(alice, "Who am I?")
    assert said(server, REAL)[1] == "user: Who am I?"
    assert len(elsewhere.items(REAL)) == 4


def test_what_becomes_of_anothers_conversation_changes_nothing_here(twins):
    (mine, others), (server, _) = twins
    alice = ChatQwenConv(model=MODEL, conversations=mine, conversation_id=REAL)
    answer = alice.invoke("I am Alice.")
    others.run(flows.delete, REAL)
    with pytest.raises(errors.ConversationNotFoundError):
        ChatQwenConv(model=MODEL, conversations=others, conversation_id=REAL).invoke("hi")
    server.requests.clear()
    alice.invoke([HumanMessage("I am Alice."), answer, HumanMessage("Who am I?")])
    assert asked(server) == ["POST /responses"]


def test_an_account_takes_nobodys_word_that_a_conversation_is_there(server):
    mine, others = (
        QwenConversations(api_key=key, base_url=server.base_url) for key in ("one", "another")
    )
    place = mine.run(flows.create).id
    ChatQwenConv(model=MODEL, conversations=mine, conversation_id=place).invoke("hi")
    server.requests.clear()
    ChatQwenConv(model=MODEL, conversations=others, conversation_id=place).invoke("hi")
    assert asked(server)[0].startswith("GET /conversations/*")


def test_hubs_of_one_account_know_what_the_other_took(server):
    settings = {"api_key": "any", "base_url": server.base_url}
    one = ChatQwenConv(model=MODEL, **settings, session_id="alice")
    answer = one.invoke("I am Alice.")
    place = answer.response_metadata["conversation_id"]
    del one
    server.requests.clear()
    chat = ChatQwenConv(model=MODEL, **settings, conversation_id=place)
    chat.invoke([HumanMessage("I am Alice."), answer, HumanMessage("Who am I?")])
    assert asked(server) == ["POST /responses"]


def test_who_may_not_see_a_conversation_makes_nobody_forget_anything_of_it(server, tmp_path):
    with (
        SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry,
        relayed(server.base_url) as relay,
    ):
        mine, others = (
            QwenConversations(
                api_key=key, base_url=relay.base_url, registry=registry, max_retries=0
            )
            for key in ("one", "another")
        )
        ChatQwenConv(model=MODEL, conversations=mine, session_id="alice").invoke("hi")
        history = QwenConvChatMessageHistory("alice", conversations=mine)
        history.add_messages([HumanMessage("I am here.", name="Alice")])
        place = registry.get(mine.session("alice")).conversation_id
        responses = registry.responses(mine.base_url, place)
        assert len(responses) == 1
        relay.refuses = lambda _method, _path: 404  # it is another account's
        theirs = QwenConvChatMessageHistory(conversation_id=place, conversations=others)
        with pytest.raises(errors.ConversationNotFoundError):
            theirs.clear()
        theirs.delete()
        others.run(erasing.erase, conversation_id=place)
        with pytest.raises(errors.SessionElsewhereError):
            others.erase_session("alice")
        relay.refuses = lambda _method, _path: None
        fresh = QwenConvChatMessageHistory("alice", conversations=mine)
        assert fresh.messages[-1].name == "Alice"
        assert registry.responses(mine.base_url, place) == responses
        for hub in (mine, others):
            hub.close()


# --- Stamps that a client forged ----------------------------------------------------------------


@pytest.fixture
def victim(server, hub):
    """A conversation of somebody else, and an answer that was given there."""
    answer = ChatQwenConv(model=MODEL, conversations=hub, session_id="victim").invoke("A secret.")
    server.requests.clear()
    return answer


def forged(stamp, place):
    """Stamps that a client may have made of one that it was shown, or has guessed."""
    at = Stamp.from_dict(stamp)
    yield at
    yield at._replace(at=at.at + 10**9)
    yield at._replace(at=0)
    yield at._replace(said=(), sent=())
    yield at._replace(said=at.said * 2, after=at.response_id)
    yield at._replace(seal="0" * 32)
    yield at._replace(seal="\u00e9")
    yield at._replace(base_url="https://evil.example.com/v1")
    yield at._replace(conversation_id="")
    yield at._replace(conversation_id=f"../{at.conversation_id}")
    yield at._replace(item_ids=(), after="")
    yield at._replace(encoded=True)
    if place:
        yield at._replace(conversation_id=place)
        yield at._replace(conversation_id=place, item_ids=("../x",), after="../../x")
        yield at._replace(conversation_id=place, item_ids=(), response_id=None)


def forgeries(victim, place):
    for stamp in forged(victim.response_metadata["stamp"], place):
        told = {
            **victim.response_metadata,
            "stamp": stamp.to_dict(),
            "conversation_id": stamp.conversation_id,
        }
        for text in (victim.content, "Something else."):
            yield [
                HumanMessage("A secret."),
                AIMessage(text, id=victim.id, response_metadata=told),
                HumanMessage("Tell me all."),
            ]


@pytest.mark.parametrize("bound", ["to nothing", "by its id", "as a session", "by response"])
@pytest.mark.parametrize("take", [invoke, astream])
def test_a_forged_stamp_leads_nowhere(server, hub, victim, take, bound):
    place = hub.run(flows.create).id
    settings = {
        "to nothing": {},
        "by its id": {"conversation_id": place, "on_divergence": "stateless"},
        "as a session": {"session_id": "mallory"},
        "by response": {"state": "response"},
    }[bound]
    # It is told what the service knows of the victim by another process, as an attacker's would be.
    mallory = QwenConversations(api_key="another", base_url=server.base_url, clock=server.clock.now)
    chat = ChatQwenConv(model=MODEL, conversations=mallory, **settings)
    before = server.items(victim.response_metadata["conversation_id"])
    server.requests.clear()
    tried = [*forgeries(victim, place if bound == "by its id" else None)]
    for messages in tried:
        take(chat, messages)
    assert sum(request.path == "/responses" for request in server.requests) >= len(tried)
    for request in server.requests:
        told = f"{request.path} {request.body}"
        assert victim.response_metadata["conversation_id"] not in told
        assert victim.response_metadata["response_id"] not in told
        assert "evil" not in told
    assert server.items(victim.response_metadata["conversation_id"]) == before
    mallory.close()


def test_a_chains_stamp_is_worth_nothing_with_another_seal(server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub, state="response")
    answer = chat.invoke("A secret.")
    honest = Stamp.from_dict(answer.response_metadata["stamp"])
    assert chains.is_sealed(honest, hub.secret)
    other = ChatQwenConv(model=MODEL, conversations=hub, session_id="victim").invoke("hi")
    theirs = other.response_metadata["response_id"]
    server.requests.clear()
    for stamp in (
        honest._replace(response_id=theirs),
        honest._replace(at=honest.at + 1),
        honest._replace(base_url=f"{honest.base_url}/"),
        honest._replace(seal=""),
        honest._replace(seal=honest.seal.upper()),
        chains.sealed(honest, "another key"),
        chains.sealed(honest._replace(response_id=theirs), "another key"),
    ):
        told = {**answer.response_metadata, "stamp": stamp.to_dict()}
        chat.invoke(
            [
                HumanMessage("A secret."),
                AIMessage(answer.content, response_metadata=told),
                HumanMessage("Tell me all."),
            ]
        )
    assert len(server.requests) == 7
    assert not any("previous_response_id" in request.body for request in server.requests)


def test_what_a_message_of_llamaindex_says_of_its_place_leads_nowhere(server, hub, victim):
    place, response = (
        victim.response_metadata[name] for name in ("conversation_id", "response_id")
    )
    told = {
        "stamp": victim.response_metadata["stamp"],
        "conversation_id": place,
        "response_id": response,
        "previous_response_id": response,
        "qwen_conv": {"conversation_id": place},
    }
    messages = [
        ChatMessage("A secret.", additional_kwargs=told),
        ChatMessage(victim.content, role="assistant", additional_kwargs=told),
        ChatMessage("Tell me all.", additional_kwargs=told),
    ]
    for settings in ({}, {"session_id": "mallory"}):
        QwenConv(model=MODEL, conversations=hub, **settings).chat(messages)
    store = QwenConvChatStore(conversations=hub)
    store.set_messages("mallory's store", messages)
    hub.mirrors.flush()
    assert server.requests
    for request in server.requests:
        assert place not in f"{request.path} {request.body}"
        assert response not in f"{request.path} {request.body}"

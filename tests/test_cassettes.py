"""What was recorded is replayed, with the network blocked; every cassette says where it is from."""

import inspect
import json

import openai
import pytest
import yaml
from langchain_core.messages import HumanMessage, SystemMessage
from vcr.errors import CannotOverwriteExistingCassetteException

from qwen_conv import flows
from qwen_conv.calls import CreateItems, CreateResponse, ListItems
from qwen_conv.items import Message
from recording import documented, provenance
from recording.scenarios import SCENARIOS
from recording.tape import FOLDER, HEADERS, PINNED, SCRUBBED, replaying
from recording.ways import Way

CASSETTES = sorted(FOLDER.glob("*/*.yaml"))
BY_NAME = {scenario.__name__: scenario for scenario in SCENARIOS}
STANDARD = "standard_tests"
"""The cassette of LangChain's own tests, which `test_standard.py` replays."""
RECORDED = [
    path for path in CASSETTES if path.parent.name in {"offline", "live"} and path.stem != STANDARD
]
EXAMPLES = {example.name: example for example in documented.EXAMPLES}


def named(path):
    return path.relative_to(FOLDER).as_posix()


def page(name):
    return FOLDER / "documented" / f"{name}.yaml"


def exchanges(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))["interactions"]


@pytest.fixture(params=["sync", "async"])
def way(request):
    return Way("any", PINNED, documented.MODEL, asynchronous=request.param == "async")


# --- Replay -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDED, ids=named)
def test_a_recorded_session_is_replayed_whole(way, path):
    with replaying(path) as cassette:
        way.play(BY_NAME[path.stem])
    assert cassette.all_played


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_sdk_replays_an_example_of_the_documents_whole(way, name):
    told = []

    async def ask(question, shown=None):
        told.append((await way.ask(question), shown))
        return told[-1][0]

    async def session(_way):
        await EXAMPLES[name].session(ask)

    with replaying(page(name)) as cassette:
        way.play(session)
    assert cassette.all_played
    for answer, shown in told:
        if shown is not None:
            assert answer.to_dict(mode="json").items() >= shown.items()


def test_each_answer_is_played_once(way):
    async def twice(way):
        for _ in range(2):
            await way.ask(lambda client: client.conversations.items.list("conv_xxx"))

    with replaying(page("list_items")) as cassette:
        with pytest.raises((CannotOverwriteExistingCassetteException, openai.APIConnectionError)):
            way.play(twice)
        assert cassette.play_count == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"input": "How old is Bob?"},
        {"model": "another"},
        {"metadata": {"one": "more"}},
    ],
)
def test_what_differs_in_its_body_is_not_answered_and_not_sent(way, changed):
    async def differs(way):
        conversation = exchanges(page("use_conversations"))[0]["response"]["json"]["id"]
        said = {"conversation": conversation, "model": way.model, "input": "How old is Alice?"}
        await way.ask(lambda client: client.responses.create(**{**said, **changed}))

    with replaying(page("use_conversations")) as cassette:
        with pytest.raises((CannotOverwriteExistingCassetteException, openai.APIConnectionError)):
            way.play(differs)
        assert cassette.play_count == 0


# --- What we send is what the documents send, and we read what they show -------------------------


def test_our_model_sends_what_the_page_on_conversations_sends(way):
    async def ours(way):
        hub = way.process()
        fact = Message.of("system", documented.ALICE)
        conversation = await way.run(hub, flows.create, [fact])
        chat = way.chat(hub, conversation_id=conversation.id)
        for question in ("How old is Alice?", "What are her hobbies?"):
            assert (await way.answer(chat, question)).text
        way._responses.clear()  # the page deletes nothing

    with replaying(page("use_conversations")) as cassette:
        way.play(ours)
    assert cassette.all_played


def test_and_what_the_page_on_system_prompts_sends(way):
    async def ours(way):
        hub = way.process()
        conversation = await way.run(hub, flows.create)
        chat = way.chat(hub, conversation_id=conversation.id)
        for question in (
            "Recommend a city suitable for summer travel.",
            "What are the must-try foods there?",
        ):
            messages = [SystemMessage(documented.ADVISOR), HumanMessage(question)]
            assert (await way.answer(chat, messages)).text
        way._responses.clear()

    with replaying(page("travel_advisor")) as cassette:
        way.play(ours)
    assert cassette.play_count == 3


def test_and_we_read_the_chained_answer_that_the_page_shows(way):
    async def ours(way):
        hub = way.process()
        first = await way.run(
            hub,
            flows.send,
            CreateResponse(way.model, (said("My name is John, please remember it."),)),
        )
        second = await way.run(
            hub,
            flows.send,
            CreateResponse(
                way.model, (said("Do you remember my name?"),), previous_response_id=first.id
            ),
        )
        assert [item.text for item in second.output] == [
            "Yes, John! I remember your name. How can I assist you today?"
        ]
        assert (second.usage.input_tokens, second.usage.output_tokens) == (78, 16)

    with replaying(page("previous_response_id")) as cassette:
        way.play(ours)
    assert cassette.all_played


def said(text):
    return Message.of("user", text)


@pytest.mark.parametrize(
    ("name", "call", "texts"),
    [
        ("create_items", CreateItems("conv_xxx", (said(documented.MAJOR),)), [documented.MAJOR]),
        ("list_items", ListItems("conv_xxx"), [documented.ALICE, documented.FRIEND]),
    ],
)
def test_we_read_the_items_that_a_page_shows(name, call, texts):
    (exchange,) = exchanges(page(name))
    assert exchange["request"]["uri"] == PINNED + call.path
    assert exchange["request"]["method"] == call.method.upper()
    items = call.reply(exchange["response"]["json"])
    items = getattr(items, "items", items)
    assert [(item.role, item.text) for item in items] == [("user", text) for text in texts]


SURFACE = {
    "create": {"items", "metadata"},
    "retrieve": {"conversation_id"},
    "update": {"conversation_id", "metadata"},
    "delete": {"conversation_id"},
    "items.create": {"conversation_id", "items", "include"},
    "items.retrieve": {"item_id", "conversation_id", "include"},
    "items.delete": {"item_id", "conversation_id"},
    "items.list": {"conversation_id", "after", "include", "limit", "order"},
}
"""The methods of the SDK that its documentation names ("Conversations"; read 2026-11-20)."""


@pytest.mark.parametrize("client", [openai.OpenAI, openai.AsyncOpenAI])
@pytest.mark.parametrize("method", SURFACE)
def test_the_sdk_has_the_surface_that_its_documentation_names(client, method):
    found = client(api_key="any").conversations
    for name in method.split("."):
        found = getattr(found, name)
    every = {"extra_headers", "extra_query", "extra_body", "timeout"}
    assert inspect.signature(found).parameters.keys() == SURFACE[method] | every


def test_the_sdk_has_the_types_that_its_documentation_names():
    from openai.types.conversations import Conversation, ConversationDeletedResource

    assert Conversation.model_fields.keys() >= {"id", "created_at", "object", "metadata"}
    assert ConversationDeletedResource.model_fields.keys() >= {"id", "deleted", "object"}


# --- Order ------------------------------------------------------------------------------------


def test_the_page_says_of_every_cassette_where_it_is_from():
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert told == provenance.page(FOLDER)


def test_a_cassette_that_does_not_say_so_is_told(tmp_path):
    (tmp_path / "live").mkdir()
    for first in ("version: 1", "# offline: somewhere", "# live"):
        (tmp_path / "live" / "one.yaml").write_text(f"{first}\ninteractions: []\n")
        with pytest.raises(ValueError, match=r"one\.yaml does not say that it is live"):
            provenance.page(tmp_path)


def test_every_cassette_is_used_and_every_session_has_one():
    used = {f"offline/{name}" for name in (*BY_NAME, STANDARD)}
    used |= {f"documented/{name}" for name in EXAMPLES}
    there = {named(path).removesuffix(".yaml") for path in CASSETTES}
    assert {one for one in there if not one.startswith("live/")} == used
    assert {one.removeprefix("live/") for one in there - used} <= BY_NAME.keys()


@pytest.mark.parametrize("path", CASSETTES, ids=named)
def test_a_cassette_holds_no_secret_and_no_address_but_the_pinned_one(path):
    for exchange in exchanges(path):
        assert exchange["request"]["uri"].startswith(PINNED + "/")
        for side in ("request", "response"):
            assert exchange[side]["headers"].keys() <= HEADERS
            metadata = (exchange[side].get("json") or {}).get("metadata") or {}
            assert metadata.get("qwen_conv", SCRUBBED) == SCRUBBED
    text = path.read_text(encoding="utf-8").lower()
    assert not [word for word in ("sk-", "bearer", "authorization", "127.0.0.1") if word in text]


@pytest.mark.parametrize("path", CASSETTES, ids=named)
def test_each_answer_says_who_gave_it(path):
    shown = [*map(json.dumps, SHOWN.get(path.stem, ()))]
    for exchange in exchanges(path):
        (told,) = exchange["response"]["headers"]["x-provenance"]
        if path.parent.name == "live":
            assert told == "live"
        else:
            is_shown = json.dumps(exchange["response"].get("json")) in shown
            assert told == ("documented" if is_shown else "offline")


SHOWN = {
    "create_items": [documented.CREATED_ITEMS],
    "list_items": [documented.LISTED_ITEMS],
    "previous_response_id": [documented.SECOND_ROUND],
}

"""The core over HTTP, in threads and in tasks: all endpoints, any number of items, in order."""

from datetime import UTC, datetime, timedelta

import pytest
from conftest import asked, said

from qwen_conv import calls, errors, flows
from qwen_conv.items import FunctionCall, Message


def hellos(count):
    return [Message.of("user", f"hello {number}") for number in range(count)]


def texts(items):
    return [item.text for item in items]


def test_the_eight_endpoints_of_conversations(run, server):
    made = run(
        flows.send,
        calls.CreateConversation((Message.of("system", "Alice is 20."),), {"topic": "demo"}),
    )
    assert made.metadata == {"topic": "demo"}
    assert abs(made.created - datetime.now(UTC)) < timedelta(minutes=1)
    assert run(flows.send, calls.RetrieveConversation(made.id)) == made
    assert run(flows.send, calls.UpdateConversation(made.id, {"a": "b"})).metadata == {"a": "b"}
    (added,) = run(flows.send, calls.CreateItems(made.id, (Message.of("user", "Bob?"),)))
    page = run(flows.send, calls.ListItems(made.id))
    assert texts(page.items) == ["Alice is 20.", "Bob?"]
    assert (page.has_more, page.last_id) == (False, added.id)
    assert run(flows.send, calls.RetrieveItem(made.id, added.id)) == Message.of("user", "Bob?")
    assert run(flows.send, calls.DeleteItem(made.id, added.id)) is None
    assert run(flows.send, calls.DeleteConversation(made.id)) is None
    with pytest.raises(errors.ConversationNotFoundError):
        run(flows.send, calls.RetrieveConversation(made.id))
    assert asked(server) == [
        "POST /conversations",
        "GET /conversations/*",
        "POST /conversations/*",
        "POST /conversations/*/items",
        "GET /conversations/*/items",
        "GET /conversations/*/items/*",
        "DELETE /conversations/*/items/*",
        "DELETE /conversations/*",
        "GET /conversations/*",
    ]


def test_the_four_endpoints_of_responses(run, server):
    hello = Message.of("user", "The sky is blue.")
    first = run(flows.send, calls.CreateResponse("qwen3.6-plus", (hello,)))
    assert first.status == "completed"
    assert abs(first.created - datetime.now(UTC).timestamp()) < 60
    again = calls.CreateResponse(
        "qwen3.6-plus", (Message.of("user", "Is the sky blue?"),), previous_response_id=first.id
    )
    second = run(flows.send, again)
    assert second.output[0].text == "The sky is blue."
    assert run(flows.send, calls.RetrieveResponse(second.id)).output == second.output
    shown = run(flows.send, calls.ListInputItems(second.id)).items
    assert texts(shown) == ["The sky is blue.", first.output[0].text, "Is the sky blue?"]
    assert run(flows.send, calls.DeleteResponse(second.id)) is None
    with pytest.raises(errors.ResponseNotFoundError):
        run(flows.send, calls.RetrieveResponse(second.id))


@pytest.mark.parametrize(("count", "requests"), [(0, 0), (1, 1), (20, 1), (21, 2), (45, 3)])
def test_any_number_of_messages_is_appended_in_order_twenty_a_request(run, server, count, requests):
    made = run(flows.create)
    server.requests.clear()
    stored = run(flows.append, made.id, hellos(count))
    assert texts(stored) == texts(hellos(count))
    assert asked(server) == ["POST /conversations/*/items"] * requests
    assert said(server, made.id) == [f"user: hello {number}" for number in range(count)]


def test_a_conversation_begins_with_any_number_of_messages(run, server):
    made = run(flows.create, hellos(45), {"topic": "demo"})
    assert said(server, made.id) == [f"user: hello {number}" for number in range(45)]


def test_a_batch_that_is_refused_leaves_those_before_it_written(run, server):
    made = run(flows.create)
    wrong = [*hellos(20), Message.of("user", "")]
    with pytest.raises(errors.PartlyWrittenError) as raised:
        run(flows.append, made.id, wrong)
    assert (raised.value.written, raised.value.total) == (20, 21)
    assert isinstance(raised.value.__cause__, errors.RequestRefusedError)
    assert len(server.items(made.id)) == 20


def test_nothing_is_sent_of_messages_that_cannot_all_be_stored(run, server):
    made = run(flows.create)
    server.requests.clear()
    with pytest.raises(errors.UsageError, match="FunctionCall"):
        run(flows.append, made.id, [*hellos(25), FunctionCall("c", "f", "{}")])
    assert asked(server) == []


@pytest.mark.parametrize(
    ("count", "requests"), [(0, 1), (19, 1), (99, 2), (100, 2), (101, 2), (250, 3)]
)
def test_a_conversation_is_read_whole_and_in_order_a_hundred_a_request(
    run, server, count, requests
):
    made = run(flows.create, hellos(count))
    server.requests.clear()
    assert texts(run(flows.read, made.id)) == texts(hellos(count))
    assert len(server.requests) == requests
    pages = {("asc", "100")}
    if count in {99, 100}:  # a long page that calls itself the last: whether that is to be believed
        pages |= {("desc", "1")}
    assert {(r.query["order"], r.query["limit"]) for r in server.requests} == pages


def test_what_came_behind_an_item_is_read_alone(run, server):
    made = run(flows.create)
    stored = run(flows.append, made.id, hellos(5))
    assert texts(run(flows.read, made.id, stored[2].id)) == ["hello 3", "hello 4"]
    with pytest.raises(errors.ItemNotFoundError):
        run(flows.read, made.id, "msg_unknown")


def test_clearing_keeps_the_conversation_and_deleting_leaves_nothing(run, server):
    made = run(flows.create, hellos(3))
    run(flows.clear, made.id)
    assert server.items(made.id) == []
    assert run(flows.read, made.id) == ()
    run(flows.append, made.id, hellos(2))
    run(flows.delete, made.id)
    assert server.items(made.id) == []
    with pytest.raises(errors.ConversationNotFoundError):
        run(flows.read, made.id)


def test_metadata_over_the_limit_never_leaves(run, server):
    with pytest.raises(errors.UsageError, match="at most 16 pairs"):
        run(flows.create, (), {str(number): "v" for number in range(17)})
    assert asked(server) == []


def test_a_page_that_comes_twice_is_an_error_and_no_endless_loop(run, server):
    """A server that takes no notice of the cursor, and says that more will come."""
    made = run(flows.create, hellos(150))
    with pytest.raises(errors.ServiceFailedError, match="came twice"):
        run(_read_from_a_server_without_cursors, made.id)


async def _read_from_a_server_without_cursors(api, conversation_id):
    class Deaf:
        hub = api.hub

        async def send(self, _):
            return await api.send(calls.ListItems(conversation_id))

    return await flows.read(Deaf(), conversation_id)

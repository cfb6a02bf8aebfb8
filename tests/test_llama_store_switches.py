"""However the service behaves where its documents are silent, a store holds each message once."""

import pytest
from conftest import MODEL, another_process
from llama_index.core.llms import ChatMessage
from llama_store import (
    ACTIVE,
    ARCHIVED,
    KINDS,
    WAYS,
    Driven,
    assistant,
    calling,
    hub_of,
    place,
    result,
    system,
    texts,
    user,
)
from test_switches import OTHERS

from llamaindex_qwen_conv import QwenConv, QwenConvChatStore
from qwen_conv.offline import OfflineServer

GIVEN = [
    system("Be brief."),
    user("How is it?"),
    calling(),
    result(),
    assistant("It is sunny."),
    user("yes"),
    assistant("yes"),
    user("yes"),
]


def as_listed(message, value):
    """A message as another process finds it."""
    if message.role.value == "system" and value == "user":
        return ChatMessage(message.content, role="user")
    return message


@pytest.mark.parametrize(("way", "kind"), [*zip(WAYS, (*KINDS, KINDS[1]), strict=True)])
@pytest.mark.parametrize(("switch", "value"), OTHERS)
def test_messages_are_stored_found_replaced_and_deleted_once_each(switch, value, way, kind):
    with OfflineServer(**{switch: value}) as server:
        hub = hub_of(kind, server)
        store = Driven(way, conversations=hub, freshness="turn")
        for number, message in enumerate(GIVEN[:5], 1):
            store.add_message("alice", message)
            assert store.get_messages("alice") == GIVEN[:number]
        store.set_messages("alice", GIVEN)
        store.flush()
        assert store.get_messages("alice") == GIVEN
        assert len(server.items(place(hub))) == len(GIVEN)

        there = Driven(way, conversations=another_process(server, registry=hub.registry))
        listed = [as_listed(message, value) for message in GIVEN]
        assert there.get_messages("alice") == listed
        there.set_messages("alice", there.get_messages("alice"))
        there.add_message("alice", assistant("no"))
        assert there.delete_message("alice", 2) == calling()
        expected = [*listed[:2], *listed[3:], assistant("no")]
        assert there.get_messages("alice") == expected
        assert len(server.items(place(hub))) == len(expected)

        again = Driven(way, conversations=another_process(server, registry=hub.registry))
        assert again.get_messages("alice") == expected
        again.delete_messages("alice")
        assert again.get_messages("alice") == []
        hub.close()


@pytest.mark.parametrize(("switch", "value"), OTHERS)
def test_what_was_archived_is_found_archived(switch, value):
    with OfflineServer(**{switch: value}) as server:
        hub = hub_of("beside a model", server)
        store = Driven(WAYS[2], conversations=hub)
        store.add_messages("alice", GIVEN)
        store.archive_oldest_messages("alice", 4)
        store.flush()
        there = Driven(WAYS[2], conversations=another_process(server, registry=hub.registry))
        for status, part in ((ARCHIVED, GIVEN[:4]), (ACTIVE, GIVEN[4:])):
            assert store.get_messages("alice", status) == part
            assert texts(there.get_messages("alice", status)) == texts(part)
        hub.close()


@pytest.mark.parametrize(("switch", "value"), OTHERS)
def test_turns_of_a_model_and_what_is_added_without_one_are_stored_once_each(switch, value):
    with OfflineServer(**{switch: value}) as server:
        hub = hub_of("alone", server)
        llm = QwenConv(model=MODEL, conversations=hub)
        store = QwenConvChatStore(conversations=hub, freshness="turn")
        expected = []
        for number in range(3):
            store.add_message("alice", user(f"question {number}"))
            answer = llm.chat(store.get_messages("alice")).message
            store.add_message("alice", answer)
            store.add_message("alice", assistant(f"note {number}"))
            expected += [f"question {number}", answer.content, f"note {number}"]
        assert texts(store.get_messages("alice")) == expected
        there = QwenConvChatStore(conversations=another_process(server, registry=hub.registry))
        assert texts(there.get_messages("alice")) == expected
        assert len(server.items(place(hub))) == len(expected)
        hub.close()

"""However the service behaves where the documents are silent, a history holds each message once."""

import asyncio

import pytest
from conftest import another_process, said
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from test_chat_history_patterns import CONFIG, TAILS, asks, with_history
from test_switches import OTHERS

from langchain_qwen_conv import QwenConvChatMessageHistory
from qwen_conv.offline import OfflineServer
from qwen_conv.registry import MemoryRegistry


@pytest.fixture(params=["sync", "async"])
def run(request):
    def taken(chain, given):
        if request.param == "sync":
            return chain.invoke(given, CONFIG)
        return asyncio.run(chain.ainvoke(given, CONFIG))

    return taken


@pytest.mark.parametrize("mode", ["prompt"])
@pytest.mark.parametrize("name", ["ours, parsed", "two of ours", "a vendor's"])
@pytest.mark.parametrize(("switch", "value"), OTHERS)
def test_runs_of_two_processes_store_each_message_once(run, switch, value, name, mode):
    registry = MemoryRegistry()
    with OfflineServer(**{switch: value}) as server:
        hub = another_process(server, registry=registry)
        for _ in range(2):
            chain = with_history(TAILS[name], mode, hub)
            run(chain, asks(mode, "yes"))
            run(chain, asks(mode, "yes"))
            hub = another_process(server, registry=registry)
        conversation = registry.get(hub.session("alice")).conversation_id
        stored = [line for line in said(server, conversation) if not line.startswith("system")]
    assert [line.split(":")[0] for line in stored] == ["user", "assistant"] * 4
    assert stored[::2] == ["user: yes"] * 4


@pytest.mark.parametrize(("switch", "value"), OTHERS)
def test_calls_and_results_written_by_hand_come_back(switch, value):
    call = {"name": "weather", "args": {"city": "Singapore"}, "id": "c1", "type": "tool_call"}
    with OfflineServer(**{switch: value}) as server:
        hub = another_process(server)
        given = [
            HumanMessage("How is it?"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("It is sunny.", tool_call_id="c1"),
            AIMessage("It is sunny."),
        ]
        QwenConvChatMessageHistory("alice", conversations=hub).add_messages(given)
        there = another_process(server, registry=hub.registry)
        history = QwenConvChatMessageHistory("alice", conversations=there)
        found = history.messages
        history.add_messages(found)
        assert len(history.messages) == 4
    assert [type(message) for message in found] == [type(message) for message in given]
    assert found[1].tool_calls == [call]
    assert found[2].content == "It is sunny."

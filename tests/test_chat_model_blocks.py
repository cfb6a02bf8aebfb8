"""Answers as LangChain's standard content blocks: thoughts, citations, the service's own tools."""

import pytest
from conftest import MODEL, another_process
from langchain_core.messages import AIMessage, HumanMessage

from langchain_qwen_conv import ChatQwenConv
from qwen_conv.offline import CallTool, OfflineServer, Say, Think, UseTool

SEARCHED = {
    "type": "web_search_call",
    "status": "completed",
    "action": {"type": "search", "query": "Web search", "sources": [{"url": "https://a.example"}]},
}
EXTRACTED = {"type": "web_extractor_call", "status": "failed", "goal": "the news", "output": "no"}
ASKED_BACK = {
    "type": "mcp_call",
    "status": "completed",
    "name": "look_up",
    "server_label": "library",
    "arguments": "{}",
    "output": "found",
}
LISTED = {"type": "mcp_list_tools", "server_label": "library", "tools": []}
CITED = {
    "type": "url_citation",
    "url": "https://a.example",
    "title": "A",
    "start_index": 0,
    "end_index": 5,
    "index": 1,
}
ANSWER = [
    Think("Let me look."),
    UseTool(SEARCHED),
    UseTool(EXTRACTED),
    UseTool(ASKED_BACK),
    UseTool(LISTED),
    Say("Found it.", [CITED]),
]


def without(block, *names):
    return {key: value for key, value in block.items() if key not in names}


def shown(message):
    """The blocks of a message; ids and places are left out."""
    return [
        without(block, "id", "tool_call_id", "index", "value") for block in message.content_blocks
    ]


BLOCKS = [
    {"type": "reasoning", "reasoning": "Let me look."},
    {"type": "server_tool_call", "name": "web_search", "args": {"action": SEARCHED["action"]}},
    {"type": "server_tool_result", "status": "success"},
    {"type": "server_tool_call", "name": "web_extractor", "args": {"goal": "the news"}},
    {"type": "server_tool_result", "status": "error", "output": {"output": "no"}},
    {
        "type": "server_tool_call",
        "name": "look_up",
        "args": {"server_label": "library", "arguments": "{}"},
    },
    {"type": "server_tool_result", "status": "success", "output": {"output": "found"}},
    {"type": "non_standard"},
    {
        "type": "text",
        "text": "Found it.",
        "annotations": [
            {
                "type": "citation",
                "url": "https://a.example",
                "title": "A",
                "start_index": 0,
                "end_index": 5,
            }
        ],
    },
]


@pytest.fixture(params=["v0", "v1"])
def chat(request, server, hub):
    server.script = lambda context, _: ANSWER if len(context) == 1 else "So it is."
    return ChatQwenConv(
        model=MODEL, conversations=hub, session_id="alice", output_version=request.param
    )


def test_what_the_services_own_tools_did_comes_in_standard_blocks(chat, take):
    answer = take(chat, "What is new?")
    assert answer.text == "Found it."
    assert sorted(map(str, shown(answer))) == sorted(map(str, BLOCKS))
    calls = [one["id"] for one in answer.content_blocks if one["type"] == "server_tool_call"]
    results = [
        one["tool_call_id"] for one in answer.content_blocks if one["type"] == "server_tool_result"
    ]
    assert calls == results
    assert len({*calls}) == 3
    (other,) = [one for one in answer.content_blocks if one["type"] == "non_standard"]
    assert without(other["value"], "id") == LISTED


def test_a_whole_answer_has_its_blocks_in_the_order_in_which_they_were_made(chat):
    assert shown(chat.invoke("What is new?")) == BLOCKS


@pytest.mark.parametrize("process", ["this", "another"])
def test_such_an_answer_is_passed_back_and_the_conversation_goes_on(server, chat, take, process):
    messages = [HumanMessage("What is new?")]
    messages.append(take(chat, messages))
    messages.append(HumanMessage("Is it?"))
    if process == "another":
        hub = another_process(server, registry=chat.conversations.registry)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    answer = take(chat, messages)
    assert answer.text == "So it is."
    assert answer.response_metadata["decision"] == "attached"
    assert server.requests[-1].body["input"] == "Is it?"


def test_its_words_are_all_that_is_sent_where_there_is_no_conversation(server, chat, take):
    answer = take(chat, "What is new?")
    take(chat.with_conversation(None), ["What is new?", answer, HumanMessage("Is it?")])
    assert [(one["role"], one["content"]) for one in server.requests[-1].body["input"]] == [
        ("user", "What is new?"),
        ("assistant", "Found it."),
        ("user", "Is it?"),
    ]


def test_a_tool_of_the_services_own_goes_up_as_it_is_written(server, chat, take):
    mcp = {"type": "mcp", "server_label": "library", "server_url": "https://b.example"}
    take(chat.bind_tools([{"type": "web_search"}, {"type": "web_extractor"}, mcp]), "What is new?")
    assert server.requests[-1].body["tools"] == [
        {"type": "web_search"},
        {"type": "web_extractor"},
        mcp,
    ]


def test_thoughts_are_streamed_as_reasoning_blocks(server, hub):
    server.script = lambda *_: [Think("One two three."), Say("Four.")]
    chat = ChatQwenConv(model=MODEL, conversations=hub, output_version="v1")
    blocks = [block for chunk in chat.stream("Count.") for block in chunk.content_blocks]
    thoughts = [one["reasoning"] for one in blocks if one["type"] == "reasoning"]
    assert thoughts == ["One", " two", " three."]
    assert [one["text"] for one in blocks if one["type"] == "text" and one["text"]] == ["Four."]


def test_a_call_beside_what_was_searched(server, hub, take):
    server.script = lambda *_: [UseTool(SEARCHED), CallTool("look", {"at": "it"}, "call_1")]
    chat = ChatQwenConv(model=MODEL, conversations=hub)
    answer = take(chat, "Look it up.")
    assert [one["type"] for one in answer.content_blocks] == [
        "server_tool_call",
        "server_tool_result",
        "tool_call",
    ]
    assert answer.tool_calls[0]["args"] == {"at": "it"}


def test_an_answer_that_somebody_else_wrote_keeps_his_blocks(hub):
    blocks = [{"type": "text", "text": "hi"}, {"type": "reasoning", "reasoning": "hm"}]
    message = AIMessage(blocks, response_metadata={"model_provider": "somebody"})
    assert message.content_blocks == blocks


CALL = CallTool("look", {"at": "it"}, "call_1")


@pytest.mark.parametrize("call_arguments", ["deltas", "done", "item", "response"])
@pytest.mark.parametrize(
    "answer",
    [
        [UseTool(SEARCHED), Say("Found. "), CALL, Say("More.")],
        [UseTool(SEARCHED), Think("Hm."), CALL, Say("More.")],
        [Think("Hm."), UseTool(SEARCHED), CALL, Say("More.")],
        [CALL, Say("More."), CallTool("look", {"at": "that"}, "call_2")],
        [CALL, Think("Hm.")],
    ],
)
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_no_piece_of_a_stream_is_taken_for_another(take, version, answer, call_arguments):
    with OfflineServer(lambda *_: answer, call_arguments=call_arguments) as server:
        chat = ChatQwenConv(
            model=MODEL,
            conversations=another_process(server),
            output_version=version,
            session_id="alice",
        )
        said = take(chat, "What is new?")
    text = "".join(piece.text for piece in answer if isinstance(piece, Say))
    calls = [piece for piece in answer if isinstance(piece, CallTool)]
    assert said.text == text
    assert [(one["id"], one["args"]) for one in said.tool_calls] == [
        (one.call_id, one.arguments) for one in calls
    ]
    shown = [one for one in said.content_blocks if one["type"] == "tool_call"]
    assert [one["id"] for one in shown] == [one.call_id for one in calls]
    kinds = sorted({one["type"] for one in said.content_blocks})
    assert ("text" in kinds, "reasoning" in kinds) == (
        bool(text),
        any(isinstance(piece, Think) for piece in answer),
    )

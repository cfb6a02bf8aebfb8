"""The Alice conversation of Qwen's documents, held by three processes.

The first passes its own list of messages to a LangChain chat model, the second is a LangChain chain
with a history, the third a LlamaIndex chat engine (`alice_llamaindex.py`).

Run it with `make demo`. With DASHSCOPE_API_KEY it talks to Qwen; without one it starts the offline
server, which quotes the conversation and is no language model. It deletes all that it makes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alice_wire import MODEL, Wire, hub_on, show
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from qwen_conv import QwenConversations, flows
from qwen_conv.calls import DeleteResponse
from qwen_conv.items import Message
from qwen_conv.offline import OfflineServer

HERE = Path(__file__)
FACTS = [
    (
        "Alice, a gentle and resilient woman, was born in Singapore. "
        "She is 20 years old, and her hobbies are music and chess."
    ),
    "Alice's best friend is Bob.",
]
QUESTIONS = ["How old is Alice?", "What are her hobbies?"]
LATER_QUESTIONS = ["Who is her best friend?", "Where was she born?"]


def hold(
    hub: QwenConversations, wire: Wire, conversation_id: str, questions: Sequence[str]
) -> None:
    """Asks the questions, passing the whole list each time, and prints the answers as they come."""
    chat = ChatQwenConv(model=MODEL, conversations=hub, conversation_id=conversation_id)
    messages: list[BaseMessage] = []
    with ExitStack() as clean_up:
        for question in questions:
            messages.append(HumanMessage(question))
            print(f"\n  Q  {question}\n  A  ", end="")
            answer: Any = None
            for chunk in chat.stream(messages):
                print(chunk.text, end="", flush=True)
                answer = chunk if answer is None else answer + chunk
            response_id = answer.response_metadata["response_id"]
            clean_up.callback(hub.run, flows.send, DeleteResponse(response_id))
            print(f"\n     {wire.told()}, messages passed: {len(messages)}")
            messages.append(answer)


def begin() -> None:
    """The first process: creates the conversation, and deletes it when all is done."""
    wire = Wire()
    with hub_on(wire) as hub, ExitStack() as clean_up:
        conversation = hub.run(flows.create, [Message.of("system", fact) for fact in FACTS])
        clean_up.callback(hub.run, flows.delete, conversation.id)
        print(f"Conversation {conversation.id}, created with {len(FACTS)} items.")
        print(f"     {wire.told()}")
        hold(hub, wire, conversation.id, QUESTIONS)
        show(hub, conversation.id)
        sys.stdout.flush()
        for script in (HERE, HERE.with_name("alice_llamaindex.py")):
            subprocess.run([sys.executable, script, conversation.id], check=True)  # noqa: S603
    print("\nAll of it is deleted again.")


def go_on(conversation_id: str) -> None:
    """The second process: knows the conversation's id, and has its messages from the history."""
    print("\nA second process goes on, a chain with the conversation as its history:")
    wire = Wire()
    with hub_on(wire) as hub, ExitStack() as clean_up, warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)  # it goes with LangChain 2.0
        chain = RunnableWithMessageHistory(
            ChatPromptTemplate([("placeholder", "{history}"), ("human", "{question}")])
            | ChatQwenConv(model=MODEL, conversations=hub),
            lambda key: QwenConvChatMessageHistory(conversation_id=key, conversations=hub),
            input_messages_key="question",
            history_messages_key="history",
        )
        for question in LATER_QUESTIONS:
            print(f"\n  Q  {question}\n  A  ", end="")
            answer: Any = None
            config = {"configurable": {"session_id": conversation_id}}
            for chunk in chain.stream({"question": question}, config):
                print(chunk.text, end="", flush=True)
                answer = chunk if answer is None else answer + chunk
            response_id = answer.response_metadata["response_id"]
            clean_up.callback(hub.run, flows.send, DeleteResponse(response_id))
            print(f"\n     {wire.told()}")
        show(hub, conversation_id)


def main() -> None:
    """Holds the conversation with Qwen, or with the offline server where there is no key."""
    if len(sys.argv) > 1:
        go_on(sys.argv[1])
    elif os.environ.get("DASHSCOPE_API_KEY"):
        begin()
    else:
        with OfflineServer() as server:
            os.environ.update(DASHSCOPE_API_KEY="offline", DASHSCOPE_BASE_URL=server.base_url)
            print("No DASHSCOPE_API_KEY: the offline server answers. It quotes; it does not think.")
            begin()


if __name__ == "__main__":
    main()

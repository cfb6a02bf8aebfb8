"""A LlamaIndex chat engine whose memory is a conversation: what it says is sent once, stored once.

A second engine, with a memory of the other kind, goes on with the same conversation.

Run it with `python examples/llamaindex_engine.py`. With DASHSCOPE_API_KEY it talks to Qwen; without
one it starts the offline server, which quotes the conversation and is no language model. It deletes
all that it makes.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer, Memory
from llamaindex_responses import responses_deleted

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import QwenConversations
from qwen_conv.offline import OfflineServer

TOLD = [
    ("user", "Alice is 20 years old, and her hobbies are music and chess."),
    ("assistant", "Nice to meet Alice."),
]


def main() -> None:
    """Tells something, asks about it, shows what is in memory, and deletes it."""
    with ExitStack() as clean_up:
        if not os.environ.get("DASHSCOPE_API_KEY"):
            server = clean_up.enter_context(OfflineServer())
            os.environ.update(DASHSCOPE_API_KEY="offline", DASHSCOPE_BASE_URL=server.base_url)

        hub = QwenConversations()  # what the LLM and the stores share
        clean_up.enter_context(responses_deleted(hub))
        llm = QwenConv(model="qwen3.6-plus", conversations=hub)

        def engine_with(memory: BaseMemory) -> SimpleChatEngine:
            return SimpleChatEngine.from_defaults(
                llm=llm, memory=memory, system_prompt="Answer in one sentence."
            )

        memory = Memory.from_defaults(
            session_id="alice", chat_store=QwenConvAsyncChatStore(conversations=hub)
        )
        clean_up.callback(memory.reset)  # deletes the conversation
        for role, text in TOLD:
            memory.put(ChatMessage(role=role, content=text))
        engine_with(memory).chat("How old is Alice?")

        buffer = ChatMemoryBuffer.from_defaults(
            chat_store=QwenConvChatStore(conversations=hub), chat_store_key="alice"
        )
        engine = engine_with(buffer)
        engine.chat("What are her hobbies?")
        for message in engine.chat_history:
            print(f"{message.role.value:10} {message.content}")


if __name__ == "__main__":
    main()

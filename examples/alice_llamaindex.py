"""The Alice conversation goes on through LlamaIndex; `examples/alice.py` starts it."""

from __future__ import annotations

import sys

from alice_wire import MODEL, Wire, hub_on, show
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import Memory
from llamaindex_responses import responses_deleted

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore

QUESTIONS = ["Who is Bob?", "Does she play chess?"]


def go_on(conversation_id: str) -> None:
    """The third process: a chat engine, for whose memory the conversation's id is a key."""
    print("\nA third process goes on, a LlamaIndex engine with the conversation as its memory:")
    wire = Wire()
    with hub_on(wire) as hub, responses_deleted(hub):
        store = QwenConvAsyncChatStore(conversations=hub)
        engine = SimpleChatEngine.from_defaults(
            llm=QwenConv(model=MODEL, conversations=hub),
            memory=Memory.from_defaults(session_id=conversation_id, chat_store=store),
        )
        for question in QUESTIONS:
            print(f"\n  Q  {question}\n  A  ", end="")
            for piece in engine.stream_chat(question).response_gen:
                print(piece, end="", flush=True)
            print(f"\n     {wire.told()}, messages in memory: {len(engine.chat_history)}")
        show(hub, conversation_id)


if __name__ == "__main__":
    go_on(sys.argv[1])

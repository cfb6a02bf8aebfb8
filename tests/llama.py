"""What the tests of the LlamaIndex package share: memories of both kinds, and a scripted model."""

from __future__ import annotations

import hashlib

from conftest import MODEL
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.storage.chat_store import SimpleChatStore

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv.offline import CallTool
from qwen_conv.offline.responder import text_of

KEY = "alice"


def memory_on(hub, kind, key=KEY, **settings):
    """A memory whose store is ours."""
    if kind == "Memory":
        store = QwenConvAsyncChatStore(conversations=hub, **settings)
        return Memory.from_defaults(session_id=key, chat_store=store)
    store = QwenConvChatStore(conversations=hub, **settings)
    return ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key=key)


def stock_memory(kind):
    """The same memory with LlamaIndex's own store."""
    if kind == "Memory":
        return Memory.from_defaults(session_id=KEY)
    return ChatMemoryBuffer.from_defaults(chat_store=SimpleChatStore(), chat_store_key=KEY)


def llm_on(hub, **settings):
    return QwenConv(model=MODEL, conversations=hub, **settings)


def told(messages):
    """What a history says, comparable with that of another store."""
    return [
        (message.role.value, [block.model_dump() for block in message.blocks], extras(message))
        for message in messages
    ]


def extras(message):
    return {name: value for name, value in message.additional_kwargs.items() if value}


def scripted(context, request):
    """A model whose answers depend on the last question alone, not on where the rest comes from.

    It calls tools where it is offered some, and says so where it finds a ReAct prompt.
    """
    last = context[-1]
    question = next((text_of(one) for one in reversed(context) if one.get("role") == "user"), "")
    system = " ".join(text_of(one) for one in context if one.get("role") == "system")
    tools = [tool["name"] for tool in request.get("tools") or ()]
    mark = hashlib.blake2b(question.encode(), digest_size=3).hexdigest()
    if "Action Input" in system:
        if "weather" in question and "Observation" not in question:
            return 'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Rome"}'
        return f"Thought: I can answer.\nAnswer: {mark} is the answer."
    if last.get("type") != "function_call_output" and "weather" in question:
        if "handoff" in tools:
            arguments = {"to_agent": "knowing", "reason": "weather"}
            return ["Handing on.", CallTool("handoff", arguments, f"call_h{mark}")]
        if "weather" in tools:
            return ["One moment.", CallTool("weather", {"city": "Rome"}, f"call_{mark}")]
    if last.get("type") == "function_call_output" and "weather" in tools:
        if "Handing" in text_of(context[-3] if len(context) > 2 else {}):
            return [CallTool("weather", {"city": "Rome"}, f"call_{mark}")]
        return f"{last['output']} ({mark})"
    return f"The answer is {mark}."

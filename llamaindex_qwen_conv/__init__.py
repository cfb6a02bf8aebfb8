"""Qwen Cloud's server-side conversations in LlamaIndex.

`QwenConvChatStore` and `QwenConvAsyncChatStore` are conversations as LlamaIndex's chat stores;
`QwenConv` is an LLM whose turns run on them.
"""

from llamaindex_qwen_conv.chat_store import QwenConvAsyncChatStore, QwenConvChatStore
from llamaindex_qwen_conv.llm import QwenConv
from qwen_conv._version import __version__

__all__ = ["QwenConv", "QwenConvAsyncChatStore", "QwenConvChatStore", "__version__"]

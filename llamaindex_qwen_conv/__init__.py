"""Qwen Cloud's server-side conversations in LlamaIndex.

The chat stores and the LLM are not part of this release; see CHANGELOG.md.
"""

from qwen_conv._version import __version__

__all__ = ["__version__"]

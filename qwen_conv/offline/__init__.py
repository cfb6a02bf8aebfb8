"""A server of the documented contract on loopback, for demonstrations and for anyone's tests.

Needs `qwen-conv[offline]`. It is no language model; see `OfflineServer`.
"""

from qwen_conv.offline.responder import CallTool, Fail, Say, Script, Think, UseTool
from qwen_conv.offline.server import OfflineServer
from qwen_conv.offline.service import SeenRequest
from qwen_conv.offline.store import Clock
from qwen_conv.offline.switches import Switches

__all__ = [
    "CallTool",
    "Clock",
    "Fail",
    "OfflineServer",
    "Say",
    "Script",
    "SeenRequest",
    "Switches",
    "Think",
    "UseTool",
]

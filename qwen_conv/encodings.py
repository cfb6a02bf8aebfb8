"""Tool calls and their results as messages: the Conversations API creates nothing else.

(docs.qwencloud.com, "Create items": "Only message is supported"; read 2026-11-20.)

The text is in the marks of Qwen's own chat template, so that a model reads it as it reads its own
calls. At its end stands a *seal*: what the text is, authenticated with a secret of the
conversation, which nobody sees who can only write into it. So

* a text without a valid seal is a text, whatever it looks like;
* a seal counts once, where it stands first: who repeats it, a user or a model, has said a text;
* a seal is worth nothing once the service has forgotten the item that it was made for.

Roles prove nothing, as some services rewrite them. The law is that `decode(encode(items))` says
what `items` say.
"""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from qwen_conv.items import FunctionCall, FunctionOutput, Item, Json, Message, Role
from qwen_conv.limits import ITEM_LIFETIME

_SEAL = "\n<!-- qwen-conv "
_END = " -->"


RESERVED = "qwen_conv"
"""The pair of a conversation's metadata that holds the secret of its encodings, and which of them
were deleted since."""


class Seal(NamedTuple):
    """The secret of a conversation's encodings, and those that were deleted."""

    secret: str
    void: frozenset[str] = frozenset()

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Seal | None:
        """The seal that a conversation's metadata holds."""
        secret, *void = metadata.get(RESERVED, "").split() or [""]
        return cls(secret, frozenset(void)) if secret else None


def new_secret() -> str:
    """A secret for a conversation, to be kept in its metadata."""
    return secrets.token_urlsafe(24)


def is_sealed(message: Message) -> bool:
    """Whether a message looks as if it had a seal; only then its secret is needed."""
    return message.text.endswith(_END) and _SEAL in message.text


class Decoded(NamedTuple):
    """What a sealed message is.

    Attributes:
        items: The items that it stands for.
        extra: What was sealed with them.
        once: What makes this seal another one than any other.
    """

    items: tuple[Item, ...]
    extra: Json
    once: str


def encode(items: Sequence[Item], secret: str, now: float, extra: Json | None = None) -> Message:
    """The message that stands for a tool's result, or for an answer that calls tools.

    Args:
        items: A `FunctionOutput`; or an answer's message, if it says anything, and its calls.
        secret: The conversation's.
        now: Seconds since 1970.
        extra: What else is to come back with them, as JSON.
    """
    role: Role = "assistant"
    match items:
        case [FunctionOutput(call_id, output)]:
            told: dict[str, Any] = {"result": call_id, "text": len(output)}
            body, role = f"<tool_response>\n{output}\n</tool_response>", "user"
        case _:
            text = "".join(item.text for item in items if isinstance(item, Message))
            calls = [item for item in items if isinstance(item, FunctionCall)]
            told = {"calls": [call.call_id for call in calls], "text": len(text)}
            body = text + "".join(map(_called, calls))
    told |= {"at": int(now), "once": secrets.token_urlsafe(9)}
    if extra:
        told["extra"] = extra
    sealed = body + _SEAL + json.dumps(told).replace(">", "\\u003e")
    return Message.of(role, f"{sealed} {_mac(sealed, secret)}{_END}")


def decode(message: Message, secret: str, now: float) -> Decoded | None:
    """What a message stands for; `None` if it is nothing but a text.

    That its seal has not been used before is for the caller to see.
    """
    if not is_sealed(message):
        return None
    sealed, _, mac = message.text.removesuffix(_END).rpartition(" ")
    if not hmac.compare_digest(mac.encode(), _mac(sealed, secret).encode()):
        return None
    body, _, head = sealed.rpartition(_SEAL)
    told: Mapping[str, Any] = json.loads(head)
    if now >= told["at"] + ITEM_LIFETIME:
        return None
    length = told["text"]
    if "result" in told:
        start = len("<tool_response>\n")
        items: tuple[Item, ...] = (FunctionOutput(told["result"], body[start : start + length]),)
    else:
        said = (Message.of("assistant", body[:length]),) if length else ()
        written = body[length:].split("\n")[2::3]
        items = (*said, *map(_call, told["calls"], written))
    return Decoded(items, told.get("extra", {}), told["once"])


def _called(call: FunctionCall) -> str:
    """A call as Qwen's chat template writes it, in three lines behind a line break."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = call.arguments  # no JSON object: kept as the model wrote it, as a text
    line = json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False)
    return f"\n<tool_call>\n{line}\n</tool_call>"


def _call(call_id: str, line: str) -> FunctionCall:
    told = json.loads(line)
    arguments = told["arguments"]
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return FunctionCall(call_id, told["name"], arguments)


def _mac(text: str, secret: str) -> str:
    digest = blake2b(text.encode(), key=secret.encode(), digest_size=15, person=b"qwen-conv seal")
    return urlsafe_b64encode(digest.digest()).decode()

"""The API's numbers, each with unit, source and the day it was read, and the checks against them.

Every check raises before anything is sent, and says what to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from math import inf
from urllib.parse import urlsplit

from qwen_conv.errors import UsageError

ITEMS_PER_REQUEST = 20
"""Items in one `items` array of a create or an add. docs.qwencloud.com, "Conversations",
Limitations; read 2026-11-20."""

PAGE_SIZE = 100
"""Items a list returns at most in one page (`limit`, 1 to 100, default 20). help.aliyun.com,
"OpenAI compatible - Conversations", list items; read 2026-11-20."""

METADATA_PAIRS = 16
"""Key-value pairs a conversation's metadata holds. docs.qwencloud.com, "Conversations",
Limitations; read 2026-11-20."""

METADATA_KEY_CHARS = 64
"""Characters of one metadata key. Source as for `METADATA_PAIRS`."""

METADATA_VALUE_CHARS = 512
"""Characters of one metadata value. Source as for `METADATA_PAIRS`."""

ITEM_LIFETIME = 7 * 24 * 60 * 60
"""Seconds that an item and a stored response live; a conversation itself does not expire.
docs.qwencloud.com, "Multi-turn conversations", Important notes; read 2026-11-20."""

TEMPERATURE_BELOW = 2.0
"""`temperature` lies in [0, 2). The service's own refusal of 5, seen 2026-09-27 on
`/compatible-mode/v1/responses`."""

TOP_P_MOST = 1.0
"""`top_p` lies in (0, 1]. The service's own refusal of 9, seen 2026-09-27."""

OUTPUT_TOKENS_LEAST = 16
"""`max_output_tokens` is at least this. The service's own refusal of 1, seen 2026-09-27."""

REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""How much a model may be told to think; which of them it tells apart depends on the model
(help.aliyun.com, "OpenAI compatible - Responses", reasoning.effort; read 2026-11-20)."""

SAMPLING = ("temperature", "top_p", "max_output_tokens")
"""The parameters that `checked_sampling` looks at."""

ID_CHARS = 512
"""Characters of an id at most. The service's have under 60; proxies put more into theirs, but what
is longer than this is no id."""

_SHOWN_CHARS = 100
"""Characters of what is no id that an error shows."""

_ID = re.compile(rf"(?!\.+$)[^/\\?#%\s]{{1,{ID_CHARS}}}")
_CONVERSATION_ID = re.compile(rf"conv_[A-Za-z0-9_-]{{1,{ID_CHARS - 5}}}")


def is_conversation_id(value: object) -> bool:
    """Whether `value` has the form of a conversation id (`conv_...`)."""
    return isinstance(value, str) and _CONVERSATION_ID.fullmatch(value) is not None


def is_id(value: object) -> bool:
    """Whether `value` can be the id of an item or a response."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None and value.isprintable()


def checked_conversation_id(value: object) -> str:
    """Returns `value` if it has the form of a conversation id (`conv_...`).

    Raises:
        UsageError: It has not: a name of your own is a `session_id`.
    """
    if is_conversation_id(value):
        return str(value)
    raise UsageError(
        f"{_short(value)} is not a conversation id: the service gives ids of the form conv_... . "
        "Pass the id of an existing conversation, or a name of your own as session_id."
    )


def checked_seconds(value: object, what: str) -> float:
    """Returns `value` if it is a number of seconds, 0 or more.

    Raises:
        UsageError: It is not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf:
        return float(value)
    raise UsageError(f"{what} is {value!r}: pass a number of seconds, 0 or more.")


def checked_session_id(value: object) -> str:
    """Returns `value` if it can name a session: any text, but a text.

    Raises:
        UsageError: It cannot.
    """
    if isinstance(value, str) and value:
        return checked_text(value, "session_id")
    raise UsageError(f"session_id is {value!r}: pass a name of your own, a text that is not empty.")


def checked_id(value: object, what: str) -> str:
    """Returns `value` if it can be the id of `what`. In a path it is quoted yet.

    Raises:
        UsageError: It is no text, or one that would lead elsewhere in a path.
    """
    if is_id(value):
        return str(value)
    raise UsageError(
        f"{_short(value)} is not the id of {what}: pass it as the service returned it."
    )


def _short(value: object) -> str:
    told = repr(value)
    return told if len(told) <= _SHOWN_CHARS else f"{told[:_SHOWN_CHARS]}..."


def checked_items(items: tuple[object, ...], least: int = 0) -> None:
    """Raises `UsageError` unless one request can carry this many items."""
    if not least <= len(items) <= ITEMS_PER_REQUEST:
        raise UsageError(
            f"One request carries {least} to {ITEMS_PER_REQUEST} items, not {len(items)}; "
            "qwen_conv.flows.append writes any number, in order, in as many requests as it takes."
        )


def checked_metadata(metadata: Mapping[str, str]) -> None:
    """Raises `UsageError` unless a conversation can hold this metadata."""
    if len(metadata) > METADATA_PAIRS:
        raise UsageError(
            f"Metadata holds at most {METADATA_PAIRS} pairs, not {len(metadata)}: drop some, or "
            "join several values in one."
        )
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise UsageError(
                f"Metadata is text to text, but {key!r} goes to a {type(value).__name__}: "
                "write it as str."
            )
        if not 0 < len(key) <= METADATA_KEY_CHARS:
            raise UsageError(
                f"The metadata key {key!r} has {len(key)} characters; 1 to "
                f"{METADATA_KEY_CHARS} are allowed."
            )
        if len(value) > METADATA_VALUE_CHARS:
            raise UsageError(
                f"The metadata value of {key!r} has {len(value)} characters; at most "
                f"{METADATA_VALUE_CHARS} are allowed."
            )
        checked_text(key + value, f"the metadata pair {key!r}")


def checked_text(text: str, where: str) -> str:
    """Returns `text` if it can be sent at all, that is, written in UTF-8.

    Raises:
        UsageError: It holds a lone surrogate, half of a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"Character {error.start} of {where} is {text[error.start]!a}, half of a "
            "character (a lone surrogate), which no JSON text can carry: decode the source with "
            "errors='replace', or drop it."
        ) from None
    return text


def checked_sampling(
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    max_output_tokens: int | None = None,
    stop: Iterable[str] | None = None,
) -> None:
    """Raises `UsageError` unless the service takes these values; `None` is always taken."""
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if value is not None and not (
            isinstance(value, int | float) and not isinstance(value, bool)
        ):
            raise UsageError(f"{name} is {value!r}; pass a number.")
    if max_output_tokens is not None and type(max_output_tokens) is not int:
        raise UsageError(f"max_tokens is {max_output_tokens!r}; pass a whole number.")
    if temperature is not None and not 0 <= temperature < TEMPERATURE_BELOW:
        raise UsageError(
            f"temperature is {temperature}; the service takes 0 <= temperature < "
            f"{TEMPERATURE_BELOW:g}."
        )
    if top_p is not None and not 0 < top_p <= TOP_P_MOST:
        raise UsageError(f"top_p is {top_p}; the service takes 0 < top_p <= {TOP_P_MOST:g}.")
    if max_output_tokens is not None and max_output_tokens < OUTPUT_TOKENS_LEAST:
        raise UsageError(
            f"max_tokens is {max_output_tokens}; the service takes {OUTPUT_TOKENS_LEAST} or more."
        )
    if stop is not None and (
        isinstance(stop, str) or not all(isinstance(one, str) and one for one in stop)
    ):
        raise UsageError(f"stop is {stop!r}; pass a list of texts, none of them empty.")


def checked_thinking(*, effort: str | None = None, enabled: bool | None = None) -> None:
    """Raises `UsageError` unless the service takes these values; `None` is always taken."""
    if effort is not None and effort not in REASONING_EFFORTS:
        raise UsageError(
            f"reasoning_effort is {effort!r}; the service takes "
            f"{', '.join(map(repr, REASONING_EFFORTS))}."
        )
    if enabled is not None and not isinstance(enabled, bool):
        raise UsageError(f"enable_thinking is {enabled!r}; pass True or False.")


def checked_base_url(url: str, *, allow_plain_http: bool = False) -> str:
    """Returns `url`, without a slash at its end, if a key may be sent there.

    Raises:
        UsageError: It is no http(s) address, it carries a password, or it is unencrypted and
            leads off this machine.
    """
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that hold no address, or a port that is no number
        is_one = False
    # What `urlsplit` takes no notice of, others may: a line break, a backslash. Behind a query or a
    # fragment no path can stand.
    if not is_one or not url.isprintable() or set(url) & set(" \\?#"):
        raise UsageError(
            f"{url!r} is no base URL: it must begin with https:// and name a host, as "
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1 does."
        )
    if parts.username or parts.password:
        raise UsageError("The base URL carries a user or a password: pass the key as api_key.")
    if parts.scheme == "http" and not allow_plain_http and not _is_loopback(parts.hostname or ""):
        raise UsageError(
            f"http://{parts.hostname} would send the key unencrypted: use https://, or ask for it "
            "with allow_plain_http=True."
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

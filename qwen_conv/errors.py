"""What can go wrong, as one tree, named for the reader's next step.

    QwenConvError
    ├── UsageError (a ValueError)        refused here, before anything was sent: change the call
    │   ├── MissingKeyError              no API key: pass one, or set DASHSCOPE_API_KEY
    │   ├── NotRepresentableError        the wire has no place for this content: change the message
    │   └── SessionElsewhereError        a session of another base URL or account: choose a way out
    ├── DivergedError                    not what the conversation holds: choose a way out
    ├── ConversationBusyError            waiting would never end: finish the turn that is open
    ├── LeaseLostError                   another process has the conversation now: send it again
    ├── RegistryError                    the registry cannot be used: look after its database
    ├── PartlyWrittenError               add the same messages again: the rest is written
    ├── ServiceError                     the service answered, but not with what was asked for
    │   ├── KeyRefusedError              401: another key, or the region the key is of
    │   ├── PermissionRefusedError       403: the account may not do this
    │   ├── RequestRefusedError          400 and its like: change the request
    │   │   ├── UnansweredCallError      answer the tool call first
    │   │   ├── InputTooLongError        send less
    │   │   └── ModelNotFoundError       another model name
    │   ├── NotFoundError                the thing named is not there (any more)
    │   │   ├── ConversationNotFoundError
    │   │   ├── ItemNotFoundError
    │   │   └── ResponseNotFoundError
    │   ├── ConversationLockedError      another turn runs on it: again in some seconds
    │   ├── RateLimitedError             429 or overload, also inside an HTTP 200: again later
    │   └── ServiceFailedError           5xx: again later
    │       └── UnreadableError          an answer that is none
    └── NoReplyError                     what became of the request is not known
        ├── UnreachableError             no connection, or it broke
        │   └── NotConnectedError        no connection: nothing was sent
        ├── TimedOutError                no answer in time
        ├── StreamCutError               the stream ended before the answer did
        └── UndecidedError               a turn that was looked for, and not found: see there

Errors of the openai SDK, of the HTTP library below it and of the service's five envelopes
(reference: the Responses API's error pages and measurements of 2026-09-27) become these in one
place, `translated`; the original is the `__cause__`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import SecretStr

    from qwen_conv.calls import Call

Raised = TypeVar("Raised", bound="QwenConvError")


class QwenConvError(Exception):
    """The root of every error that this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return again, (type(self), self.args, self.__dict__)


def again(kind: type[Raised], args: tuple[Any, ...], state: Mapping[str, Any]) -> Raised:
    """An error of that kind with what another one says: a copy, or one of a sister class."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


def own_cause(error: Any) -> QwenConvError | None:
    """What a validator of ours raised that pydantic has made a `ValidationError` of."""
    causes = [one.get("ctx", {}).get("error") for one in error.errors()]
    return next((cause for cause in causes if isinstance(cause, QwenConvError)), None)


class UsageError(QwenConvError, ValueError):
    """The call cannot work; nothing was sent. The message says what to change."""


class MissingKeyError(UsageError):
    """No API key was passed and DASHSCOPE_API_KEY is not set."""


class NotRepresentableError(UsageError):
    """A message holds what the wire cannot carry. The message names it and what would do."""


class SessionElsewhereError(UsageError):
    """The registry has the session's key for another base URL or account."""


class DivergedError(QwenConvError):
    """The list of messages is not what the conversation holds, followed by new ones.

    Attributes:
        conversation_id: The conversation that was asked for; `None` where each turn follows the
            response of the last one.
        reason: What does not fit, in words, without content.
    """

    def __init__(self, conversation_id: str | None, reason: str) -> None:
        self.conversation_id = conversation_id
        self.reason = reason
        if conversation_id is None:
            what = "the response of their last answer"
            ways = (
                "pass on_divergence='rebase' to follow what fits, or to begin anew from your list; "
                "or 'ignore' to send what stands behind the last answer of your list."
            )
        else:
            what = conversation_id
            ways = (
                "pass only the new messages; pass on_divergence='ignore' to send what stands "
                "behind the last answer of your list; or use a session_id instead of a "
                "conversation_id, then a new conversation is begun from your list."
            )
        super().__init__(
            f"Nothing was sent: the messages do not continue {what}: {reason}. Ways out: {ways}"
        )


class ConversationBusyError(QwenConvError):
    """This very thread or task holds the conversation's open turn: waiting would never end."""


class LeaseLostError(QwenConvError):
    """This process stood still for longer than its lease, and another has the conversation now.

    Attributes:
        conversation_id: The conversation.
    """

    def __init__(self, conversation_id: str, seconds: float) -> None:
        self.conversation_id = conversation_id
        super().__init__(
            f"Nothing was sent: this process did not renew its lease of {conversation_id} for "
            f"{seconds:g} seconds, and another process has taken the conversation over. Send it "
            "again. If processes stand still for so long (suspended, overloaded, or without their "
            "database), pass the hub a longer lease_seconds."
        )


class RegistryError(QwenConvError):
    """The registry cannot be used: its database cannot be opened, failed, or is too new."""


class PartlyWrittenError(QwenConvError):
    """Some of several messages are written, the others are not; the cause says why.

    Attributes:
        written: How many of the items are written; a lost reply may have been one of more.
        total: How many there were.
    """

    def __init__(self, written: int, total: int) -> None:
        self.written = written
        self.total = total
        super().__init__(
            f"{written} of {total} items are written, the others are not. Add the same messages "
            "again: what is written is not written twice."
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """What the service said of a failure, whatever envelope it came in."""

    message: str
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after: float | None = None

    @classmethod
    def from_wire(
        cls, body: object, status: int | None = None, request_id: str | None = None
    ) -> Failure:
        """Reads any of the five envelopes: flat, nested, `response.failed`, `error`, SSE text."""
        if isinstance(body, str):
            body = _json_in_text(body)
        if not isinstance(body, Mapping):
            return cls(_shortened(str(body)) if body else "no text", status, None, request_id)
        request_id = _text(body.get("request_id")) or request_id
        response = body.get("response")
        if isinstance(response, Mapping):  # response.failed: the error stands in the response
            body = response
        inner = body.get("error")
        if isinstance(inner, Mapping):
            body = inner
            request_id = _text(body.get("request_id")) or request_id
        elif isinstance(inner, str):
            body = {"message": inner, "code": body.get("code")}
        message = _text(body.get("message")) or "no text"
        code = _text(body.get("code")) or _text(body.get("type"))
        if message.startswith("data:"):  # an envelope in the message of an envelope
            nested = cls.from_wire(message, status, request_id)
            return nested if nested.message != "no text" else cls(message, status, code, request_id)
        own_status = re.search(r"<(\d{3})>", message)
        if own_status and (status is None or status < 400):  # noqa: PLR2004 - an HTTP success
            status = int(own_status[1])
        return cls(_shortened(message), status, code, request_id)


class ServiceError(QwenConvError):
    """The service answered, but not with what was asked for.

    Attributes:
        status: HTTP status, or the one that a stream named; `None` if neither did.
        code: The service's own code, such as "InvalidParameter".
        request_id: What Alibaba Cloud's support asks for.
        retry_after: Seconds after which the service asks to be tried again; `None` if it does not
            say.
        received: The text of the answer that had come by then.
        response_id: The response's id, if the stream had named it.
    """

    advice = ""
    received: str = ""
    response_id: str | None = None

    def __init__(self, failure: Failure) -> None:
        self.status = failure.status
        self.code = failure.code
        self.request_id = failure.request_id
        self.retry_after = failure.retry_after
        about = [f"HTTP {failure.status}" if failure.status else "", failure.code or ""]
        if failure.request_id:
            about.append(f"request {failure.request_id}")
        named = ", ".join(filter(None, about))
        text = failure.message + (f" ({named})" if named else "")
        super().__init__(f"{text}. {self.advice}" if self.advice else text)


class KeyRefusedError(ServiceError):
    """The service does not take the key."""

    advice = (
        "Keys are of one region: a key of Beijing is refused in Singapore and the other way round. "
        "Check DASHSCOPE_API_KEY, and that base_url or region is where the key was made "
        "(region='ap-southeast-1' or region='cn-beijing')."
    )


class PermissionRefusedError(ServiceError):
    """The key is known but may not do this: ask for the right in the Model Studio console."""


class RequestRefusedError(ServiceError):
    """The service does not take the request as it is."""


class UnansweredCallError(RequestRefusedError):
    """The conversation ends with a tool call whose result it was never given."""

    advice = (
        "Pass the result as a ToolMessage, or have the call told that it was not executed: "
        "on_unanswered_call='answer'."
    )


class InputTooLongError(RequestRefusedError):
    """The input is longer than the model's context."""

    advice = "Send less: trim or summarize the messages."


class ModelNotFoundError(RequestRefusedError):
    """The service's Responses API does not know the model."""

    advice = "Check the model's name; not every model of the account is on the Responses API."


class NotFoundError(ServiceError):
    """What the request names is not there; if it names nothing, the base URL leads elsewhere."""

    advice = "Check the base URL: it ends with /compatible-mode/v1."


class ConversationNotFoundError(NotFoundError):
    """The conversation is not there: never made, deleted, or of another key or region."""

    advice = (
        "Conversations are seen only with the key and at the base URL they were made with. If it "
        "was deleted, begin a new one: without conversation_id, or with a session_id."
    )


class ItemNotFoundError(NotFoundError):
    """The item is not there: deleted, or older than seven days."""

    advice = "List the conversation's items to see what it holds."


class ResponseNotFoundError(NotFoundError):
    """The response is not there: deleted, not stored, or older than seven days."""

    advice = "Send the messages in full, without previous_response_id."


class ConversationLockedError(ServiceError):
    """Another turn runs on the conversation, in another process or on another device."""

    advice = "Send it again in some seconds."


class RateLimitedError(ServiceError):
    """The account's rate or quota is used up, or the service overloaded: again in a minute."""


class ServiceFailedError(ServiceError):
    """The service failed."""


class UnreadableError(ServiceFailedError):
    """The service answered with something that is no answer; the request may be carried out."""


class NoReplyError(QwenConvError):
    """No answer came; whether the request was carried out is not known.

    Attributes:
        received: The text of the answer that had come by then.
        response_id: The response's id, if a stream had named it.
    """

    received: str = ""
    response_id: str | None = None


class UnreachableError(NoReplyError):
    """No connection, or it broke before the answer."""


class NotConnectedError(UnreachableError):
    """No connection could be made: nothing was sent."""


class TimedOutError(NoReplyError):
    """No answer in time."""


class StreamCutError(NoReplyError):
    """The stream ended before the answer did."""

    def __init__(self, message: str, received: str = "", response_id: str | None = None) -> None:
        self.received = received
        self.response_id = response_id
        super().__init__(message)


class UndecidedError(NoReplyError):
    """What became of a turn is not known: no reply came, and its conversation does not show it yet.

    It was looked for until the hub's `settle_timeout`; a service may store it later than that. It
    is remembered: the next turn of the conversation looks first, and if it is the same one again,
    is given the answer that is found. `hub.settle(conversation_id)` looks when you ask for it.

    Attributes:
        conversation_id: The conversation.
    """

    def __init__(self, conversation_id: str, seconds: float, lost: QwenConvError) -> None:
        self.conversation_id = conversation_id
        self.received = getattr(lost, "received", "")
        self.response_id = getattr(lost, "response_id", None)
        known = "".join(
            (
                f" Its response is {self.response_id}." if self.response_id else "",
                f" {len(self.received)} characters of its answer had come."
                if self.received
                else "",
            )
        )
        super().__init__(
            f"Whether a turn of {conversation_id} was stored is not known: {lost} The conversation "
            f"did not show it within {seconds:g} seconds.{known} Ask the same again, and it is "
            "looked for first; or look with hub.settle(conversation_id)."
        )


_OF_CODE: tuple[tuple[str, type[ServiceError]], ...] = (
    ("conversation_locked", ConversationLockedError),
    ("invalidapikey", KeyRefusedError),
    ("invalid_api_key", KeyRefusedError),
    ("throttling", RateLimitedError),
    ("limit_requests", RateLimitedError),
    ("rate_limit", RateLimitedError),
    ("insufficient_quota", RateLimitedError),
    ("overloaded", RateLimitedError),
    ("server_overloaded", RateLimitedError),
    ("context_length", InputTooLongError),
    ("model_not_found", ModelNotFoundError),
    ("accessdenied", PermissionRefusedError),
    ("previous_response_not_found", ResponseNotFoundError),
)
"""The beginning of a code, in small letters -> what it means. First match wins. Codes:
help.aliyun.com, "Error codes", read 2026-11-20; conversation_locked and the like: OpenAI."""

_OF_TEXT: tuple[tuple[str, type[ServiceError]], ...] = (
    ("unsupported model", ModelNotFoundError),
    ("range of input length should be", InputTooLongError),
    ("not found previous_response_id", ResponseNotFoundError),
    ("too many requests", RateLimitedError),
    ("overloaded", RateLimitedError),
    ("another process is currently operating on this conversation", ConversationLockedError),
    ("no tool output found", UnansweredCallError),
    ("must be followed by tool messages", UnansweredCallError),
)

_OF_STATUS: dict[int, type[ServiceError]] = {
    401: KeyRefusedError,
    403: PermissionRefusedError,
    408: ServiceFailedError,
    429: RateLimitedError,
    529: RateLimitedError,  # some gateways' "overloaded"
}


def service_error(failure: Failure, call: Call[Any] | None = None) -> ServiceError:
    """The error for what the service said: by code, then by text, then by status."""
    code, text = (failure.code or "").lower(), failure.message.lower()
    for beginning, kind in _OF_CODE:
        if code.startswith(beginning):
            return kind(failure)
    for words, kind in _OF_TEXT:
        if words in text:
            return kind(failure)
    status = failure.status
    if status is None and code.startswith("invalid"):
        status = 400  # an event of a stream names no status
    if status == 404 or (status == 400 and "not found" in text):  # noqa: PLR2004
        return _missing(failure, call)(failure)
    if status in _OF_STATUS:
        return _OF_STATUS[status](failure)
    if status is not None and 400 <= status < 500:  # noqa: PLR2004
        return RequestRefusedError(failure)
    return ServiceFailedError(failure)


def _missing(failure: Failure, call: Call[Any] | None) -> type[ServiceError]:
    """Which of the things that the call names is the one that is not there."""
    # What Qwen says of a path that is not there (measured 2026-09-27).
    if failure.message.lower() == "not support":
        return NotFoundError
    item_id = getattr(call, "item_id", None) or getattr(call, "after", None)
    if item_id and ("item" in failure.message.lower() or item_id in failure.message):
        return ItemNotFoundError
    if getattr(call, "conversation_id", None):
        return ConversationNotFoundError
    if getattr(call, "response_id", None):
        return ResponseNotFoundError
    return NotFoundError


UNREADABLE = (TypeError, AttributeError, ValueError, LookupError)
"""What reading JSON of another shape than the documented one comes to."""

_SHORTEST_KEY = 8
"""Characters; what is shorter is a placeholder, and may be a part of any word."""


@contextmanager
def own_errors(call: Call[Any], key: SecretStr) -> Iterator[None]:
    """Turns what the SDK and the HTTP library raise into the tree above.

    Args:
        call: What was asked for, to say what is missing.
        key: The API key, which no error may carry on, whatever the service echoes. It comes
            wrapped: a traceback that shows local variables shows this one too.
    """
    try:
        yield
    except QwenConvError as error:
        blacken(error, key.get_secret_value())
        raise
    except Exception as error:
        ours = translated(error, call)
        blacken(error, key.get_secret_value())
        if ours is None:
            raise
        blacken(ours, key.get_secret_value())
        raise ours from error


def blackened(text: str, secret: str) -> str:
    """The text without the API key."""
    return text.replace(secret, "[api key]") if len(secret) >= _SHORTEST_KEY else text


def blacken(error: BaseException, secret: str) -> None:
    """Blackens the API key wherever an error says it, or one that it came from.

    The SDK's errors have the request, whose headers have the key, and the answer, which may echo
    it.
    """
    if len(secret) < _SHORTEST_KEY:
        return

    def black(value: object) -> Any:
        match value:
            case str():
                return blackened(value, secret)
            case Mapping():
                return {key: black(one) for key, one in value.items()}
            case tuple() | list():
                return type(value)(map(black, value))
        return value

    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        one = chain.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        chain += [one.__cause__, one.__context__]
        if (args := black(one.args)) != one.args:
            one.args = args
        for name, value in [*vars(one).items()]:
            if isinstance(value, str | dict | list):
                setattr(one, name, black(value))
            else:
                _blacken_exchange(value, secret)


def _blacken_exchange(one: Any, secret: str) -> None:
    """Blackens the key in a request or an answer of the HTTP library, if it is one."""
    headers = getattr(one, "headers", None)
    if not isinstance(headers, MutableMapping):
        return
    for name, value in [*headers.items()]:
        if secret in value:
            headers[name] = blackened(value, secret)
    parts = vars(one)
    content = parts.get("_content")
    if isinstance(content, bytes) and secret.encode() in content:
        parts["_content"] = blackened(content.decode(errors="replace"), secret).encode()
        parts.pop("_text", None)
    _blacken_exchange(parts.get("_request"), secret)


def translated(error: Exception, call: Call[Any] | None = None) -> QwenConvError | None:
    """The error of this tree for one of the SDK, of the HTTP library or of JSON; else `None`."""
    if isinstance(error, UnicodeEncodeError):
        return NotRepresentableError(
            f"The request holds {error.object[error.start]!a}, which cannot be sent there (half of "
            "a character, or in a header anything but ASCII): nothing was sent."
        )
    if isinstance(error, json.JSONDecodeError):
        return UnreadableError(Failure("The service answered with something that is not JSON"))
    # The HTTP library is httpx under openai 2 and httpx2 under openai 3, and is never imported
    # here; openai 2 lets its errors through while a stream is read.
    library, kind = type(error).__module__.partition(".")[0], type(error).__name__
    if library not in {"openai", "httpx", "httpx2", "httpcore", "httpcore2"}:
        return None
    cause = error.__cause__ if library == "openai" else error
    if type(cause).__name__ in _NOT_CONNECTED:
        detail = f": {cause}" if str(cause) else ""
        return NotConnectedError(f"No connection to the service{detail}.")
    if "Timeout" in kind:
        return TimedOutError("The service did not answer in time.")
    if library != "openai" or kind == "APIConnectionError":
        detail = f": {cause}" if cause and str(cause) else ""
        return UnreachableError(f"The connection to the service broke{detail}.")
    response = getattr(error, "response", None)
    if response is not None:
        headers = response.headers
        if 300 <= response.status_code < 400:  # noqa: PLR2004 - an HTTP redirect
            return RequestRefusedError(Failure(_REDIRECTED, response.status_code))
        failure = Failure.from_wire(
            response.text, response.status_code, headers.get("x-request-id")
        )
        return service_error(replace(failure, retry_after=_retry_after(headers)), call)
    body = getattr(error, "body", None)
    return service_error(Failure.from_wire(body or {"message": str(error)}), call)


_NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"})
"""What the HTTP library raises before it has sent anything; see `httpx`, "Exceptions"."""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: a number, or a date (RFC 9110, section 10.2.3)."""
    told = headers.get("retry-after", "")
    try:
        return max(0.0, float(headers.get("retry-after-ms") or "") / 1000)
    except ValueError:
        pass
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


_REDIRECTED = (
    "The base URL leads on to another address, and messages are not sent on where nobody has asked "
    "for: pass that address as base_url"
)


def _json_in_text(text: str) -> object:
    """The JSON that a text is, or that the `data:` lines of an event stream in it are."""
    data = "\n".join(
        line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")
    )
    try:
        return json.loads(data or text)
    except ValueError:
        return text


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _shortened(text: str, most: int = 2000) -> str:
    return text if len(text) <= most else f"{text[:most]}..."

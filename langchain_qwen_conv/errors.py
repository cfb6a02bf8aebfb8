"""The core's errors that are also LangChain's: catch either.

LangChain's middleware and users know `ModelRateLimitError` and its kin of
`langchain_core.exceptions`; this package's users know the tree of `qwen_conv.errors`, where each
class here is explained. Whatever leaves a chat model is both, made in one place,
`as_model_errors`.

`is_retryable` is what LangChain's retries go by. On a turn of a conversation it is true only where
the turn was certainly not stored: a second one would be a second turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions as langchain

from qwen_conv import errors as core


class UsageError(core.UsageError, langchain.ModelInvalidRequestError): ...


class MissingKeyError(core.MissingKeyError, langchain.ModelAuthenticationError): ...


class NotRepresentableError(core.NotRepresentableError, langchain.ModelInvalidRequestError): ...


class SessionElsewhereError(core.SessionElsewhereError, langchain.ModelInvalidRequestError): ...


class DivergedError(core.DivergedError, langchain.ModelInvalidRequestError): ...


class ConversationBusyError(core.ConversationBusyError, langchain.ModelInvalidRequestError): ...


class LeaseLostError(core.LeaseLostError, langchain.ModelAPIError): ...


class RegistryError(core.RegistryError, langchain.ModelError): ...


class PartlyWrittenError(core.PartlyWrittenError, langchain.ModelAPIError): ...


class KeyRefusedError(core.KeyRefusedError, langchain.ModelAuthenticationError): ...


class PermissionRefusedError(core.PermissionRefusedError, langchain.ModelPermissionDeniedError): ...


class RequestRefusedError(core.RequestRefusedError, langchain.ModelInvalidRequestError): ...


class UnansweredCallError(core.UnansweredCallError, langchain.ModelInvalidRequestError): ...


class InputTooLongError(core.InputTooLongError, langchain.ContextOverflowError): ...


class ModelNotFoundError(core.ModelNotFoundError, langchain.ModelNotFoundError): ...


class NotFoundError(core.NotFoundError, langchain.ModelInvalidRequestError): ...


class ConversationNotFoundError(
    core.ConversationNotFoundError, langchain.ModelInvalidRequestError
): ...


class ItemNotFoundError(core.ItemNotFoundError, langchain.ModelInvalidRequestError): ...


class ResponseNotFoundError(core.ResponseNotFoundError, langchain.ModelInvalidRequestError): ...


class ConversationLockedError(core.ConversationLockedError, langchain.ModelRateLimitError): ...


class RateLimitedError(core.RateLimitedError, langchain.ModelRateLimitError): ...


class ServiceFailedError(core.ServiceFailedError, langchain.ModelAPIError): ...


class UnreadableError(core.UnreadableError, langchain.ModelAPIError): ...


class UnreachableError(core.UnreachableError, langchain.ModelConnectionError): ...


class NotConnectedError(core.NotConnectedError, langchain.ModelConnectionError): ...


class TimedOutError(core.TimedOutError, langchain.ModelTimeoutError): ...


class StreamCutError(core.StreamCutError, langchain.ModelConnectionError): ...


class UndecidedError(core.UndecidedError, langchain.ModelConnectionError): ...


_BOTH: dict[type[core.QwenConvError], type[core.QwenConvError]] = {
    kind.__bases__[0]: kind
    for kind in tuple(globals().values())
    if isinstance(kind, type) and issubclass(kind, core.QwenConvError)
}
"""The core's class -> the one here that is LangChain's too."""

_SURELY_NOT_STORED = (
    core.NotConnectedError,
    core.RateLimitedError,
    core.ConversationLockedError,
    core.LeaseLostError,
)


@contextmanager
def as_model_errors(*, in_conversation: bool) -> Iterator[None]:
    """Raises what the core raises as an error that is LangChain's too."""
    try:
        yield
    except core.QwenConvError as error:
        kind = _BOTH.get(type(error))
        if kind is None:
            raise
        both = core.again(kind, error.args, error.__dict__)
        if in_conversation and not isinstance(error, _SURELY_NOT_STORED):
            both.__dict__["is_retryable"] = False
        raise both.with_traceback(error.__traceback__) from error.__cause__

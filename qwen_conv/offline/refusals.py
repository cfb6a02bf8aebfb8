"""How the offline server says no: the service's error envelopes."""

from __future__ import annotations

import uuid
from typing import Any

from qwen_conv.offline.switches import Switches


class Refusal(Exception):  # noqa: N818 - the service's answer, not a failure of the server
    """The request is not carried out."""

    def __init__(self, message: str, code: str = "InvalidParameter", status: int = 400) -> None:
        self.message = message
        self.code = code
        self.status = status
        super().__init__(message)

    def body(self, switches: Switches) -> dict[str, Any]:
        """The envelope."""
        request_id = str(uuid.uuid4())
        if switches.error_envelope == "nested":
            inner = {"message": self.message, "type": self.code, "code": self.code}
            return {"error": inner, "request_id": request_id}
        return {"request_id": request_id, "code": self.code, "message": self.message}


def missing(what: str, switches: Switches) -> Refusal:
    """Something that the request names is not there."""
    return Refusal(f"{what} not found.", "InvalidParameter", int(switches.missing_status))


NO_KEY = Refusal("No API-key provided.", "InvalidApiKey", 401)
WRONG_KEY = Refusal("Invalid API-key provided.", "InvalidApiKey", 401)
TWO_IDS = Refusal(
    "Mutually exclusive parameters: Ensure you are only providing one of: previous_response_id or "
    "conversation."
)
"""docs.qwencloud.com, "Multi-turn conversations", Important notes; read 2026-11-20."""

LOCKED = Refusal(
    "Another process is currently operating on this conversation. Please retry in a few seconds.",
    "conversation_locked",
)
NOT_JSON = Refusal("The request body is not valid JSON.")
HALF_A_CHARACTER = Refusal(
    "The request body is not valid: a text in it holds half of a character (a lone surrogate)."
)

"""The settings that the stores and the LLM have in common: the hub, or what to make one of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

from llama_index.core.bridge.pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from qwen_conv.errors import own_cause
from qwen_conv.hub import QwenConversations
from qwen_conv.registry import Registry

_SETTINGS = (
    "api_key",
    "base_url",
    "region",
    "registry",
    "namespace",
    "default_headers",
    "client",
    "async_client",
)


class OnHub(BaseModel):
    """What works on a hub: the one that it is passed, or one of its own."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",  # a misspelt setting must not be passed over
        hide_input_in_errors=True,  # an error must not show a key
    )

    conversations: QwenConversations | None = Field(default=None, exclude=True, repr=False)
    """The hub to share with others: its connections, its sessions, and what it knows."""

    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """The key; by default the one in DASHSCOPE_API_KEY. It is in no dump."""

    base_url: str | None = None
    """The service; by default DASHSCOPE_BASE_URL, or the region's."""

    region: str | None = None
    """"ap-southeast-1" (Singapore, the default) or "cn-beijing"."""

    registry: Registry | None = Field(default=None, exclude=True, repr=False)
    """Which conversation a session is; by default one that lasts as long as the process."""

    namespace: str | None = None
    """Keeps applications apart that share a registry; by default "default"."""

    default_headers: Mapping[str, str] | None = Field(default=None, exclude=True, repr=False)
    """Sent with every request."""

    client: Any = Field(default=None, exclude=True, repr=False)
    """A ready `openai.OpenAI`."""

    async_client: Any = Field(default=None, exclude=True, repr=False)
    """A ready `openai.AsyncOpenAI`; the stores need `client` as well."""

    def __init__(self, **settings: Any) -> None:
        """Checks the settings, and makes a hub if none was given.

        Raises:
            MissingKeyError: There is no key.
            UsageError: A setting is out of its range, or two of them contradict each other.
            ValidationError: A setting is unknown, or of the wrong type (pydantic's error).
        """
        settings.pop("class_name", None)  # LlamaIndex's dumps say it
        try:
            super().__init__(**settings)
        except ValidationError as error:
            if (own := own_cause(error)) is None:
                raise
            raise own from None

    @model_validator(mode="after")
    def _connect(self) -> Self:
        values = {name: getattr(self, name) for name in _SETTINGS}
        given = {name: value for name, value in values.items() if value is not None}
        self.conversations = QwenConversations.of(self.conversations, **given)
        self.base_url, self.region = self.conversations.base_url, None
        self.namespace = self.conversations.namespace
        self.api_key = None  # the hub has it, and tells it to nobody
        return self

    def __getstate__(self) -> dict[Any, Any]:
        """What is pickled: nothing that a dump leaves out, for a key may be in it."""
        # LlamaIndex takes what cannot be pickled out of the very object that is pickled.
        state: dict[Any, Any] = super(OnHub, self._without_hub()).__getstate__()
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Makes the object anew, with the key of this process.

        Raises:
            MissingKeyError: There is no key.
        """
        type(self).__init__(self, **state["__dict__"])

    def _without_hub(self) -> Self:
        copy = self.model_copy()
        for name, field in OnHub.model_fields.items():
            if field.exclude:
                del copy.__dict__[name]
        return copy

    @property
    def _hub(self) -> QwenConversations:
        return cast("QwenConversations", self.conversations)

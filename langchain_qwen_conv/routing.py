"""Which conversation a call belongs to, and what follows for calls that share one.

LangChain keeps a call's config from `_generate`, so it is read in the public methods, where it is
still there, and handed on as an argument. Turns of one conversation are taken in order, and never
out of a cache.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, Self, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import get_config_list
from pydantic import ConfigDict, Field

from langchain_qwen_conv.errors import as_model_errors
from langchain_qwen_conv.reports import HistoryRun
from qwen_conv.decision import OnDivergence, Span
from qwen_conv.hub import QwenConversations
from qwen_conv.limits import checked_conversation_id

Model = TypeVar("Model", bound=type[BaseChatModel])

_SELECTS = ("conversation_id", "session_id")
_LANGGRAPH = "langgraph_node"
"""What LangGraph puts into the metadata of every config inside a graph: the node's name."""
_TAKE_A_CONFIG = ("invoke", "ainvoke", "stream", "astream", "stream_events", "astream_events")


@dataclass(eq=False)
class AgentThread:
    """The conversation of an agent's thread, for a call of the agent's model.

    Attributes:
        conversation_id: Its id; another one once a turn was taken in a new one.
        on_divergence: What to do if the thread's messages are not what it holds.
        span: What the thread's messages are of it at the least.
        looks: Whether the run was begun from a checkpoint that was named: the thread may have gone
            on behind it, in any process.
        metadata: That of a conversation that is begun.
        begun: The ids of conversations that were created for the call.
    """

    conversation_id: str
    on_divergence: OnDivergence
    span: Span
    looks: bool
    metadata: Mapping[str, str]
    begun: list[str] = field(default_factory=list)

    def begin(self, conversation_id: str) -> None:
        """Notes a conversation that was created for a turn."""
        self.begun.append(conversation_id)

    def move(self, conversation_id: str) -> None:
        """Notes the conversation that is the thread's from now on."""
        self.conversation_id = conversation_id


def _routed(model: Model) -> Model:
    """Has the public methods of a model hand on the conversation that their config selects."""
    for name in _TAKE_A_CONFIG:
        setattr(model, name, _with_route(getattr(model, name)))
    return model


def _with_route(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def routed(
        self: RoutedChatModel,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        return method(self, input, config, **self._route(config, kwargs))

    return routed


@_routed
class RoutedChatModel(BaseChatModel):
    """A chat model whose calls may belong to conversations."""

    conversations: QwenConversations | None = Field(default=None, exclude=True, repr=False)
    """The hub; the model's own if none was given."""

    conversation_id: str | None = None
    """The conversation to go on with. A field, so that no `bind` can drop it."""

    session_id: str | None = None
    """The session to go on with: a key of the hub's registry."""

    state: Literal["conversation", "response"] = "conversation"
    """How context is kept: in a conversation, if one is selected; or by each turn's following the
    response of the last one, which the stamps of the list's answers name. A list can then go back
    and branch; a response lives for seven days."""

    config_selects: bool = True
    """Whether the config of a call can select the conversation. A call inside a chain has the
    config of the call around it. Inside a graph of LangGraph no config does: all that runs there
    has the graph's, summarizers and sub-agents too."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        defer_build=True,  # an import need not pay for what the first model needs
        extra="forbid",  # a misspelt conversation_id must not become a stateless call
        hide_input_in_errors=True,  # an error must not show a key
        populate_by_name=True,
        protected_namespaces=(),
    )

    def with_conversation(self, conversation_id: str | None) -> Self:
        """This model on that conversation; `None`: on none, whatever the config of a call says.

        Raises:
            UsageError: It is not the id of a conversation.
        """
        with as_model_errors(in_conversation=False):
            if conversation_id is not None:
                checked_conversation_id(conversation_id)
        return self.model_copy(
            update={
                "conversation_id": conversation_id,
                "session_id": None,
                "config_selects": conversation_id is not None,
            }
        )

    # LangChain's bindings hand `bind_tools` on to the model inside, without their arguments and
    # config: what selects the conversation is therefore put into the model's fields.

    def bind(self, **kwargs: Any) -> Any:
        """Binds arguments of every call; a conversation or session among them as a field."""
        selects = {name: kwargs.pop(name) for name in _SELECTS if name in kwargs}
        return super(RoutedChatModel, self._selecting(selects)).bind(**kwargs)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Binds a config; the conversation or session that it selects as a field."""
        route = self._route({**(config or {}), **kwargs}, {})  # type: ignore[arg-type]  # they are a config
        model = self._selecting({name: route[name] for name in _SELECTS if name in route})
        return super(RoutedChatModel, model).with_config(config, **kwargs)

    def _selecting(self, selects: Mapping[str, Any]) -> Self:
        """This model with fields that say what such arguments of a call say."""
        if not selects:
            return self
        if all(value is None for value in selects.values()):
            return self.with_conversation(None)
        return self.model_copy(update={**dict.fromkeys(_SELECTS), **selects})

    @property
    def _hub(self) -> QwenConversations:
        return cast("QwenConversations", self.conversations)

    def _route(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's arguments, with the conversation that the config selects, if it does."""
        config = ensure_config(config)
        if (
            not self.config_selects
            or self.state == "response"
            or _LANGGRAPH in config.get("metadata", ())
        ):
            return kwargs
        configurable = config.get("configurable") or {}
        session_id = configurable.get("session_id")
        chosen = {} if session_id is None else {"session_id": session_id}
        if run := HistoryRun.of(config):
            kwargs = {**kwargs, "history_run": run}
            chosen = run.history.selects if run.history.hub is self._hub else {}
        if any(name in kwargs for name in _SELECTS):
            return kwargs
        if (conversation_id := configurable.get("qwen_conversation_id")) is not None:
            return {**kwargs, "conversation_id": conversation_id}
        # A session of the config is for whoever keeps sessions: not for a model that was given
        # neither a hub nor a registry, nor for one that has its conversation.
        if self._hub.shared and self.conversation_id is None:
            return {**kwargs, **chosen}
        return kwargs

    def _selected(self, kwargs: Mapping[str, Any]) -> dict[str, str | None]:
        """What the call goes on with: its arguments, if they say anything, or else the fields."""
        if (thread := kwargs.get("agent_thread")) is not None:
            return {"conversation_id": thread.conversation_id, "session_id": None}
        if any(name in kwargs for name in _SELECTS):
            return {name: kwargs.get(name) for name in _SELECTS}
        return {"conversation_id": self.conversation_id, "session_id": self.session_id}

    def _in_conversation(self, kwargs: Mapping[str, Any]) -> bool:
        return any(value is not None for value in self._selected(kwargs).values())

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Takes several turns; if two belong to one conversation, all in order, one by one."""
        configs = get_config_list(config, len(inputs))
        if not self._share_a_conversation(configs, kwargs):
            return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)
        one_by_one = self._one_by_one(inputs, configs, kwargs, go_on=return_exceptions)
        return [answer for _, answer in one_by_one]

    def batch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Like `batch`, each answer as soon as it is there."""
        configs = get_config_list(config, len(inputs))
        if self._share_a_conversation(configs, kwargs):
            return self._one_by_one(inputs, configs, kwargs, go_on=return_exceptions)
        at_once: Any = super().batch_as_completed
        answers: Iterator[tuple[int, Any]] = at_once(
            inputs, configs, return_exceptions=return_exceptions, **kwargs
        )
        return answers

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Like `batch`, leaving the event loop free."""
        configs = get_config_list(config, len(inputs))
        if not self._share_a_conversation(configs, kwargs):
            return await super().abatch(
                inputs, config, return_exceptions=return_exceptions, **kwargs
            )
        one_by_one = self._aone_by_one(inputs, configs, kwargs, go_on=return_exceptions)
        return [answer async for _, answer in one_by_one]

    def abatch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[int, Any]]:
        """Like `abatch`, each answer as soon as it is there."""
        configs = get_config_list(config, len(inputs))
        if self._share_a_conversation(configs, kwargs):
            return self._aone_by_one(inputs, configs, kwargs, go_on=return_exceptions)
        at_once: Any = super().abatch_as_completed
        answers: AsyncIterator[tuple[int, Any]] = at_once(
            inputs, configs, return_exceptions=return_exceptions, **kwargs
        )
        return answers

    def _share_a_conversation(
        self, configs: Sequence[RunnableConfig], kwargs: dict[str, Any]
    ) -> bool:
        turns = [tuple(self._selected(self._route(one, kwargs)).values()) for one in configs]
        bound = [turn for turn in turns if any(turn)]
        return len(set(bound)) < len(bound)

    def _one_by_one(
        self,
        inputs: Sequence[LanguageModelInput],
        configs: Sequence[RunnableConfig],
        kwargs: dict[str, Any],
        *,
        go_on: bool,
    ) -> Iterator[tuple[int, Any]]:
        for index, (one, config) in enumerate(zip(inputs, configs, strict=True)):
            try:
                answer: Any = self.invoke(one, config, **kwargs)
            except Exception as error:
                if not go_on:
                    raise
                answer = error
            yield index, answer

    async def _aone_by_one(
        self,
        inputs: Sequence[LanguageModelInput],
        configs: Sequence[RunnableConfig],
        kwargs: dict[str, Any],
        *,
        go_on: bool,
    ) -> AsyncIterator[tuple[int, Any]]:
        for index, (one, config) in enumerate(zip(inputs, configs, strict=True)):
            try:
                answer: Any = await self.ainvoke(one, config, **kwargs)
            except Exception as error:
                if not go_on:
                    raise
                answer = error
            yield index, answer

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = self._without_cache(kwargs)
        return super(RoutedChatModel, model)._generate_with_cache(
            messages, stop, run_manager, **kwargs
        )

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = self._without_cache(kwargs)
        return await super(RoutedChatModel, model)._agenerate_with_cache(
            messages, stop, run_manager, **kwargs
        )

    def _without_cache(self, kwargs: Mapping[str, Any]) -> Self:
        """This model, without LangChain's cache of answers if the turn is of a conversation.

        A cached answer would leave the conversation a turn behind the caller.
        """
        cached = self.cache or (self.cache is None and get_llm_cache() is not None)
        if cached and self._in_conversation(kwargs):
            return self.model_copy(update={"cache": False})
        return self

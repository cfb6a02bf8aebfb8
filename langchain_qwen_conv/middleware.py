"""`QwenConvMiddleware`: agents of LangChain whose threads are server-side conversations.

A thread's messages are the agent's state, which its checkpointer keeps; the conversation is where
the service has them. So the state is the record: where the two differ, because the thread was
forked, edited or summarized, a new conversation begins with what the state says, and its id takes
the other's place in the state. Each branch of a thread keeps the conversation that it has.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Any, Literal, NotRequired, get_args

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import OmitFromOutput
from langchain_core.runnables import RunnableBinding, ensure_config
from langgraph.runtime import Runtime
from langgraph.types import Command

from langchain_qwen_conv.chat_models import ChatQwenConv
from langchain_qwen_conv.errors import as_model_errors
from langchain_qwen_conv.routing import AgentThread
from qwen_conv import flows
from qwen_conv.api import Api, finish
from qwen_conv.calls import DeleteConversation
from qwen_conv.decision import OnDivergence
from qwen_conv.errors import QwenConvError, UsageError
from qwen_conv.hub import QwenConversations
from qwen_conv.limits import checked_conversation_id, checked_metadata

logger = logging.getLogger("qwen_conv")

OnTrimmed = Literal["keep", "rebase"]
"""What to do about a list of messages whose older part was dropped."""

STATE_KEY = "qwen_conversation_id"
"""Where the id of a thread's conversation is in the agent's state."""


class QwenConvState(AgentState[Any]):
    """An agent's state with the id of the thread's conversation, which a checkpointer keeps."""

    qwen_conversation_id: NotRequired[Annotated[str, OmitFromOutput]]


class QwenConvMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Has an agent's thread be a conversation: each message is sent once, and stored once.

    ```python
    agent = create_agent(
        ChatQwenConv(model="qwen3.6-plus"),
        tools=[get_weather],
        middleware=[QwenConvMiddleware()],
        checkpointer=InMemorySaver(),
    )
    agent.invoke({"messages": "How is the weather?"}, {"configurable": {"thread_id": "1"}})
    ```

    Only the agent's own calls of its model belong to the conversation. The model is passed without
    one of its own, so that whoever else has it (summarizers, tools, sub-agents, tool selectors)
    asks it on none. Put this middleware last: then it sees the model and the messages as they are
    sent, and others that ask the model beside the agent's call do not have them.

    The conversation is created with the agent's first call of its model; or, if `conversations` is
    passed, before that, so that the id is in a checkpoint before anything is sent to it. A state
    that is passed in can name one: `{"messages": ..., "qwen_conversation_id": "conv_..."}`.

    Args:
        conversations: The hub of the agent's models, if the conversation is to be created before
            the first of them is called.
        on_divergence: What to do if the state's messages are not what the conversation holds,
            followed by new ones: begin a new conversation with them ("rebase"), refuse ("raise"),
            send them all on no conversation ("stateless"), or send what stands behind the last
            answer ("ignore").
        on_trimmed: What to do if all that differs is that older messages were dropped: go on, for
            the model is still shown them ("keep"), or do as with any other difference ("rebase").
        metadata: Metadata of the conversations besides "thread_id" and "user_id", which are taken
            from the config.

    Raises:
        UsageError: A setting is out of its range.
    """

    state_schema: type[AgentState[Any]] = QwenConvState

    def __init__(
        self,
        *,
        conversations: QwenConversations | None = None,
        on_divergence: OnDivergence = "rebase",
        on_trimmed: OnTrimmed = "keep",
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        for name, value, possible in (
            ("on_divergence", on_divergence, get_args(OnDivergence)),
            ("on_trimmed", on_trimmed, get_args(OnTrimmed)),
        ):
            if value not in possible:
                raise UsageError(f"{name} is {value!r}; it is {' or '.join(map(repr, possible))}.")
        checked_metadata(metadata)
        self.conversations = conversations
        self.on_divergence = on_divergence
        self.on_trimmed = on_trimmed
        self.metadata = dict(metadata)
        self._told: set[str] = set()

    # --- Before the agent ---------------------------------------------------------------------

    def before_agent(
        self,
        state: AgentState[Any],
        runtime: Runtime[Any],  # noqa: ARG002 - LangChain's
    ) -> dict[str, Any] | None:
        """Creates the thread's conversation, if there is none and the hub is known."""
        if self.conversations is None or state.get(STATE_KEY) is not None:
            return None
        with as_model_errors(in_conversation=False):
            return {STATE_KEY: finish(self._created(self.conversations.sync()))}

    async def abefore_agent(
        self,
        state: AgentState[Any],
        runtime: Runtime[Any],  # noqa: ARG002 - LangChain's
    ) -> dict[str, Any] | None:
        """`before_agent`, leaving the event loop free."""
        if self.conversations is None or state.get(STATE_KEY) is not None:
            return None
        with as_model_errors(in_conversation=False):
            return {STATE_KEY: await self._created(self.conversations.tasks())}

    # --- Calls of the model -------------------------------------------------------------------

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Has the agent's call of its model be a turn of the thread's conversation."""
        if (hub := self._hub_of(request)) is None:
            return handler(request)
        with as_model_errors(in_conversation=False):
            begun, thread = finish(self._thread(hub.sync(), request))
        try:
            response = handler(_on(request, thread))
        except Exception:
            if begun:
                finish(_drop(hub.sync(), thread))
            raise
        return _noted(request, thread, response)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """`wrap_model_call`, leaving the event loop free."""
        if (hub := self._hub_of(request)) is None:
            return await handler(request)
        with as_model_errors(in_conversation=False):
            begun, thread = await self._thread(hub.tasks(), request)
        try:
            response = await handler(_on(request, thread))
        except Exception:
            if begun:
                await _drop(hub.tasks(), thread)
            raise
        return _noted(request, thread, response)

    def _hub_of(self, request: ModelRequest[Any]) -> QwenConversations | None:
        """The hub of the model that is to be called; `None` if that is not one of ours.

        Raises:
            UsageError: The model has a conversation of its own, or another hub.
        """
        model: Any = request.model
        while isinstance(model, RunnableBinding):
            model = model.bound
        if not isinstance(model, ChatQwenConv):
            if (kind := type(model).__name__) not in self._told:
                self._told.add(kind)
                logger.warning("the agent's model is a %s: it is asked on no conversation", kind)
            return None
        if model.conversation_id is not None or model.session_id is not None:
            raise UsageError(
                "The agent's model has a conversation of its own, and so has each thread of the "
                "agent, by QwenConvMiddleware: make the model without conversation_id and "
                "session_id, or leave the middleware out."
            )
        hub = model.conversations
        if self.conversations not in {None, hub}:
            raise UsageError(
                "The agent's model and its QwenConvMiddleware are on different hubs: pass the same "
                "conversations to both, or none to the middleware."
            )
        return hub

    async def _thread(self, api: Api, request: ModelRequest[Any]) -> tuple[bool, AgentThread]:
        """The thread's conversation, and whether it was created just now."""
        known = request.state.get(STATE_KEY)
        conversation_id = await self._created(api) if known is None else known
        return known is None, AgentThread(
            checked_conversation_id(conversation_id),
            self.on_divergence,
            "tail" if self.on_trimmed == "keep" else "whole",
            self._metadata(),
        )

    async def _created(self, api: Api) -> str:
        return (await flows.create(api, metadata=self._metadata())).id

    def _metadata(self) -> dict[str, str]:
        """What a conversation of the thread that runs is to tell of itself."""
        configurable = ensure_config().get("configurable", {})
        told = {name: configurable.get(name) for name in ("thread_id", "user_id")}
        return {name: str(value) for name, value in told.items() if value} | self.metadata


def _on(request: ModelRequest[Any], thread: AgentThread) -> ModelRequest[Any]:
    """The request as a turn of the thread's conversation.

    It is a setting of this call, and not of the model: that one is not only for the agent.
    """
    return request.override(model_settings={**request.model_settings, "agent_thread": thread})


def _noted(
    request: ModelRequest[Any], thread: AgentThread, response: ModelResponse[Any]
) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    """The response, which has the state keep the conversation's id, if that is another one."""
    if request.state.get(STATE_KEY) == thread.conversation_id:
        return response
    return ExtendedModelResponse(response, Command(update={STATE_KEY: thread.conversation_id}))


async def _drop(api: Api, thread: AgentThread) -> None:
    """Deletes a conversation that no state will know: the turn that it was for has failed."""
    with suppress(QwenConvError):
        await api.send(DeleteConversation(thread.conversation_id))

"""`QwenConvMiddleware`: agents of LangChain whose threads are server-side conversations.

A thread's messages are the agent's state, which its checkpointer keeps; the conversation is where
the service has them. So the state is the record: where the two differ, because the thread was
forked, edited or summarized, a new conversation begins with what the state says, and its id takes
the other's place in the state. Each branch of a thread keeps the conversation that it has.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Any, Literal, NotRequired, cast, get_args

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.runnables import ensure_config
from langchain_core.runnables.base import RunnableBindingBase
from langgraph.runtime import Runtime
from langgraph.types import Command

from langchain_qwen_conv.chat_models import ChatQwenConv
from langchain_qwen_conv.errors import as_model_errors
from langchain_qwen_conv.routing import AgentThread
from qwen_conv import flows
from qwen_conv.api import Api, finish
from qwen_conv.decision import OnDivergence
from qwen_conv.errors import QwenConvError, UsageError
from qwen_conv.hub import QwenConversations
from qwen_conv.limits import METADATA_VALUE_CHARS, checked_conversation_id, checked_metadata

logger = logging.getLogger("qwen_conv")

OnTrimmed = Literal["keep", "rebase"]
"""What to do about a list of messages whose older part was dropped."""

IdInState = Literal["private", "public"]
"""Whether a conversation's id goes in and out with an agent's state."""

_FROM_CONFIG = ("thread_id", "user_id")
"""What of a config a conversation's metadata tells."""

STATE_KEY = "qwen_conversation_id"
"""Where the id of a thread's conversation is in the agent's state."""


class QwenConvState(AgentState[Any]):
    """An agent's state with the id of the thread's conversation, which a checkpointer keeps."""

    qwen_conversation_id: NotRequired[Annotated[str, PrivateStateAttr]]


class PublicQwenConvState(AgentState[Any]):
    """The same for an agent that is a node of a graph, whose state has the id."""

    qwen_conversation_id: NotRequired[str]


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
    sent, and what others ask the model beside the agent's call is none of its business.

    The conversation is created with the agent's first call of its model; or, if `conversations` is
    passed, before that, so that the id is in a checkpoint before anything is sent to it. If it is
    gone, by being deleted, a new one begins with what the state says.

    Args:
        conversations: The hub of the agent's models, if the conversation is to be created before
            the first of them is called.
        on_divergence: What to do if the state's messages are not what the conversation holds,
            followed by new ones: begin a new conversation with them ("rebase"), refuse ("raise"),
            send them all on no conversation ("stateless"), or send what stands behind the last
            answer ("ignore"). By default what the model says, or "rebase".
        on_trimmed: What to do if all that differs is that older messages were dropped: go on, for
            the model is still shown them ("keep"), or do as with any other difference ("rebase").
            A list without any answer is never taken for one of which the rest was dropped.
        metadata: Metadata of the conversations besides "thread_id" and "user_id", which are taken
            from the config, or from the run's context.
        id_in_state: Whether the conversation's id is the agent's own ("private"), or also goes in
            and out with the state ("public"): for agents that are nodes of a graph, whose state has
            a `qwen_conversation_id`. Whoever passes a state in can then name any conversation of
            the account.

    Raises:
        UsageError: A setting is out of its range.
    """

    state_schema: type[AgentState[Any]] = QwenConvState

    def __init__(
        self,
        *,
        conversations: QwenConversations | None = None,
        on_divergence: OnDivergence | None = None,
        on_trimmed: OnTrimmed = "keep",
        metadata: Mapping[str, str] = MappingProxyType({}),
        id_in_state: IdInState = "private",
    ) -> None:
        super().__init__()
        for name, value, possible in (
            ("on_divergence", on_divergence or "rebase", get_args(OnDivergence)),
            ("on_trimmed", on_trimmed, get_args(OnTrimmed)),
            ("id_in_state", id_in_state, get_args(IdInState)),
        ):
            if value not in possible:
                raise UsageError(f"{name} is {value!r}; it is {' or '.join(map(repr, possible))}.")
        checked_metadata(dict.fromkeys(_FROM_CONFIG, "") | dict(metadata))
        if id_in_state == "public":
            self.state_schema = PublicQwenConvState
        self.conversations = conversations
        self.on_divergence = on_divergence
        self.on_trimmed = on_trimmed
        self.metadata = dict(metadata)
        self._told: set[str] = set()

    # --- Before the agent ---------------------------------------------------------------------

    def before_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Creates the thread's conversation, if there is none and the hub is known."""
        if self.conversations is None or state.get(STATE_KEY) is not None:
            return None
        with as_model_errors(in_conversation=False):
            return {STATE_KEY: finish(self._created(self.conversations.sync(), runtime))}

    async def abefore_agent(
        self, state: AgentState[Any], runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """`before_agent`, leaving the event loop free."""
        if self.conversations is None or state.get(STATE_KEY) is not None:
            return None
        with as_model_errors(in_conversation=False):
            return {STATE_KEY: await self._created(self.conversations.tasks(), runtime)}

    # --- Calls of the model -------------------------------------------------------------------

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Has the agent's call of its model be a turn of the thread's conversation."""
        if (model := self._ours(request)) is None:
            return handler(request)
        api = _hub_of(model).sync()
        with as_model_errors(in_conversation=False):
            thread = finish(self._thread(api, request, model))
        try:
            response = handler(_on(request, thread))
        except (Exception, CancelledError):
            finish(_drop(api, thread.begun))
            raise
        finish(_drop(api, [one for one in thread.begun if one != thread.conversation_id]))
        return _noted(request, thread, response)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """`wrap_model_call`, leaving the event loop free."""
        if (model := self._ours(request)) is None:
            return await handler(request)
        api = _hub_of(model).tasks()
        with as_model_errors(in_conversation=False):
            thread = await self._thread(api, request, model)
        try:
            response = await handler(_on(request, thread))
        except (Exception, CancelledError):
            await _drop(api, thread.begun)
            raise
        await _drop(api, [one for one in thread.begun if one != thread.conversation_id])
        return _noted(request, thread, response)

    def _ours(self, request: ModelRequest[Any]) -> ChatQwenConv | None:
        """The model that is to be called; `None` if it is not one of ours.

        Raises:
            UsageError: It has a conversation of its own, another hub, or something around it that
                hides it.
        """
        model: Any = request.model
        selected = dict(request.model_settings)
        while isinstance(model, RunnableBindingBase):
            selected |= model.kwargs
            model = model.bound
        hidden = getattr(model, "runnable", None) or getattr(model, "default", None)
        if isinstance(hidden, ChatQwenConv):
            raise UsageError(
                f"The agent's model is a ChatQwenConv in a {type(model).__name__}, which hands no "
                "conversation on: pass the ChatQwenConv itself. ModelRetryMiddleware and "
                "ModelFallbackMiddleware do for agents what is around it."
            )
        if not isinstance(model, ChatQwenConv):
            if (kind := type(model).__name__) not in self._told:
                self._told.add(kind)
                logger.warning("the agent's model is a %s: it is asked on no conversation", kind)
            return None
        if model.state == "response":
            raise UsageError(
                "The agent's model follows responses (state='response'), which takes no "
                "conversation: leave QwenConvMiddleware out, or state."
            )
        own = {"conversation_id": model.conversation_id, "session_id": model.session_id}
        if any(selected.get(name, value) is not None for name, value in own.items()):
            raise UsageError(
                "The agent's model has a conversation of its own, and so has each thread of the "
                "agent, by QwenConvMiddleware: make the model without conversation_id and "
                "session_id, or leave the middleware out."
            )
        if self.conversations not in {None, model.conversations}:
            raise UsageError(
                "The agent's model and its QwenConvMiddleware are on different hubs: pass the same "
                "conversations to both, or none to the middleware."
            )
        return model

    async def _thread(
        self, api: Api, request: ModelRequest[Any], model: ChatQwenConv
    ) -> AgentThread:
        """The thread's conversation; it is created if there is none yet."""
        known = _state(request).get(STATE_KEY)
        conversation_id = await self._created(api, request.runtime) if known is None else known
        return AgentThread(
            checked_conversation_id(conversation_id),
            self.on_divergence or model.on_divergence or "rebase",
            "tail" if self.on_trimmed == "keep" else "whole",
            _is_from_a_checkpoint(),
            self._metadata(request.runtime),
            [conversation_id] if known is None else [],
        )

    async def _created(self, api: Api, runtime: Runtime[Any]) -> str:
        return (await flows.create(api, metadata=self._metadata(runtime))).id

    def _metadata(self, runtime: Runtime[Any]) -> dict[str, str]:
        """What a conversation of the thread that runs is to tell of itself."""
        context = getattr(runtime, "context", None)
        known = context if isinstance(context, Mapping) else getattr(context, "__dict__", {})
        known = {**known, **ensure_config().get("configurable", {})}
        told = {name: known.get(name) for name in _FROM_CONFIG}
        metadata = {name: str(value) for name, value in told.items() if value is not None}
        for name in [name for name, value in metadata.items() if len(value) > METADATA_VALUE_CHARS]:
            logger.warning("%s is too long for a conversation's metadata, and left out", name)
            del metadata[name]
        return metadata | self.metadata


def _is_from_a_checkpoint() -> bool:
    """Whether the run was begun from a checkpoint that was named.

    LangGraph puts the checkpoint's id into the metadata of the run's configs.
    """
    return "checkpoint_id" in ensure_config().get("metadata", {})


def _hub_of(model: ChatQwenConv) -> QwenConversations:
    return cast("QwenConversations", model.conversations)


def _state(request: ModelRequest[Any]) -> Mapping[str, Any]:
    return request.state


def _on(request: ModelRequest[Any], thread: AgentThread) -> ModelRequest[Any]:
    """The request as a turn of the thread's conversation.

    It is a setting of this call, and not of the model: that one is not only for the agent.
    """
    return request.override(model_settings={**request.model_settings, "agent_thread": thread})


def _noted(
    request: ModelRequest[Any], thread: AgentThread, response: ModelResponse[Any]
) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    """The response, which has the state keep the conversation's id, if that is another one."""
    if _state(request).get(STATE_KEY) == thread.conversation_id:
        return response
    return ExtendedModelResponse(response, Command(update={STATE_KEY: thread.conversation_id}))


async def _drop(api: Api, conversation_ids: Sequence[str]) -> None:
    """Deletes conversations that no state will know, for their turns have failed."""
    for conversation_id in conversation_ids:
        with suppress(QwenConvError):
            await flows.delete(api, conversation_id)

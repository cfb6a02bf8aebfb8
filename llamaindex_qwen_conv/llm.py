"""`QwenConv`: a LlamaIndex LLM whose turns run on server-side conversations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, closing
from functools import wraps
from typing import TYPE_CHECKING, Any, Self, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_validator
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection

from llamaindex_qwen_conv import messages as mapping
from llamaindex_qwen_conv.answers import as_objects, completion
from llamaindex_qwen_conv.on_hub import OnHub
from llamaindex_qwen_conv.references import FORM
from llamaindex_qwen_conv.tools import arguments_of_call, tool_to_wire
from llamaindex_qwen_conv.turns import Asked, apieces, as_held, local_list, pieces, taken
from qwen_conv.api import finish
from qwen_conv.decision import OnDivergence
from qwen_conv.errors import UsageError
from qwen_conv.limits import (
    SAMPLING,
    checked_conversation_id,
    checked_sampling,
    checked_session_id,
    checked_text,
    checked_thinking,
)
from qwen_conv.models import model_of
from qwen_conv.pairing import OnUnansweredCall
from qwen_conv.settings import settings_to_wire
from qwen_conv.turn import TurnRequest

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

    from qwen_conv.mirror import Mirror

CONTEXT_WINDOW = 131_072
"""Tokens that a model is taken to read if it is not in `qwen_conv.models`: of those that the
Responses API lists, all but one read more. Engines size their memories by it."""

OUTPUT_TOKENS = 32_768
"""Tokens that such a model is taken to answer with at most."""

_PER_CALL = frozenset(
    {
        "model",
        "temperature",
        "top_p",
        "max_tokens",
        "reasoning_effort",
        "enable_thinking",
        "timeout",
        "max_retries",
        "extra_body",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
    }
)
"""What a single call may say, besides its messages."""


class QwenConv(OnHub, FunctionCallingLLM):
    """A Qwen model for LlamaIndex whose turns run on server-side conversations.

    On a hub that it shares with a store of this package, a call that continues a conversation of
    that store sends what is new, and nothing else; see `QwenConvAsyncChatStore`. That has to be
    proved: every message was read from the store, in order, down to its last one. Any other call,
    as engines make them to condense a question, to extract facts, to refine an answer, or with a
    prompt that they made of the messages, is taken on no conversation, with all that it says, and
    is stored nowhere.

    ```python
    hub = QwenConversations()
    llm = QwenConv(model="qwen3.6-plus", conversations=hub)
    memory = Memory.from_defaults(
        session_id="alice", chat_store=QwenConvAsyncChatStore(conversations=hub)
    )
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    ```

    Without a store, it works on any list of messages: with a `conversation_id` or a `session_id`,
    `chat` and its like send what the conversation lacks. Prompts (`complete`, `predict`,
    `structured_predict`, `predict_and_call` and their like) never reach a conversation.

    Every method that asks the model raises:
        UsageError: Something cannot work; nothing was sent.
        NotRepresentableError: A message holds what the wire cannot carry; nothing was sent.
        ServiceError: The service refused.
        NoReplyError: No answer came, or a stream ended before the answer did.
    """

    model: str
    """The model's name, as `qwen3.6-plus`."""

    conversation_id: str | None = None
    """The conversation that chats go on with, where no store's messages say otherwise."""

    session_id: str | None = None
    """The session that chats go on with: a key of the hub's registry."""

    on_divergence: OnDivergence = "stateless"
    """What to do if the messages do not continue that conversation: send them all on none
    ("stateless"), begin a new one ("rebase": only with a session), refuse ("raise"), or send what
    stands behind the last answer ("ignore"). Where a store on the same hub has the conversation, it
    is the store's to say what that holds: there, "rebase" and "ignore" are "stateless"."""

    on_unanswered_call: OnUnansweredCall = "answer"
    """What to do about a tool call that was given no result, after which the service takes no turn:
    tell it that it was not executed ("answer"), or raise `UnansweredCallError` ("raise")."""

    temperature: float | None = None
    """0 <= temperature < 2; by default the service's."""

    top_p: float | None = None
    """0 < top_p <= 1; by default the service's."""

    max_tokens: int | None = None
    """Tokens of an answer, 16 or more; whether reasoning counts depends on the model."""

    reasoning_effort: str | None = None
    """How much to think: "none", "minimal", "low", "medium", "high", "xhigh" or "max"."""

    enable_thinking: bool | None = None
    """Whether to think; the service is giving this up for `reasoning_effort`."""

    context_window: int | None = Field(default=None, gt=0)
    """Tokens that the model reads at most; by default what `qwen_conv.models` says."""

    timeout: float | None = None
    """Seconds to wait for an answer; by default the hub's."""

    max_retries: int | None = None
    """How often a request is sent again that may be sent twice; by default the hub's."""

    extra_body: dict[str, Any] | None = None
    """Parameters of the service that have no field here."""

    _is_detached: bool = PrivateAttr(default=False)
    _makes_objects: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _check_and_announce(self) -> Self:
        if self.conversation_id is not None:
            checked_conversation_id(self.conversation_id)
            if self.session_id is not None:
                raise UsageError("Pass conversation_id or session_id, not both.")
            if self.on_divergence == "rebase":
                raise UsageError(
                    "on_divergence='rebase' binds the key of a session to a new conversation, and "
                    "a bare conversation_id has none: pass a session_id, or another on_divergence."
                )
        if self.session_id is not None:
            checked_session_id(self.session_id)
        checked_sampling(
            temperature=self.temperature, top_p=self.top_p, max_output_tokens=self.max_tokens
        )
        checked_thinking(effort=self.reasoning_effort, enabled=self.enable_thinking)
        self._hub.mirrors.turns_expected = True
        return self

    @classmethod
    def class_name(cls) -> str:
        """The name under which the LLM is dumped and restored."""
        return "QwenConv"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex asks about a model.

        Memories and prompts are sized by `context_window`, in tokens. It is what the Responses API
        takes of the model's window, for it cuts what is longer in the middle, without an error.
        """
        known = model_of(self.model)
        window, output = CONTEXT_WINDOW, OUTPUT_TOKENS
        if known is not None:
            window, output = known.input, known.output
        return LLMMetadata(
            context_window=self.context_window or window,
            num_output=self.max_tokens or output,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self.model,
            system_role=MessageRole.SYSTEM,
        )

    # --- Chats --------------------------------------------------------------------------------

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The answer to the messages, which may be a turn of a conversation."""
        return self._chat(messages, kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat`, leaving the event loop free."""
        return await self._achat(messages, kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat`, piece by piece; the last piece has all that comes once."""
        return self._stream_chat(messages, kwargs)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """`stream_chat`, leaving the event loop free."""
        return self._astream_chat(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The answer to a prompt, on no conversation."""
        return completion(self._chat(self._prompt(prompt, formatted), kwargs, is_prompt=True))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """`complete`, leaving the event loop free."""
        messages = self._prompt(prompt, formatted)
        return completion(await self._achat(messages, kwargs, is_prompt=True))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """`complete`, piece by piece."""
        messages = self._prompt(prompt, formatted)
        return _completions(self._stream_chat(messages, kwargs, is_prompt=True))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """`stream_complete`, leaving the event loop free."""
        messages = self._prompt(prompt, formatted)
        return _acompletions(self._astream_chat(messages, kwargs, is_prompt=True))

    def _prompt(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        text = prompt if formatted else cast("Any", self.completion_to_prompt)(prompt)
        return [ChatMessage(role=MessageRole.USER, content=text)]

    # --- One turn -----------------------------------------------------------------------------

    def _chat(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any], *, is_prompt: bool = False
    ) -> ChatResponse:
        asked = self._asked(messages, kwargs, is_prompt=is_prompt)
        return finish(taken(self._hub.sync(*self._limits(kwargs)), asked))

    async def _achat(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any], *, is_prompt: bool = False
    ) -> ChatResponse:
        asked = self._asked(messages, kwargs, is_prompt=is_prompt)
        return await taken(self._hub.tasks(*self._limits(kwargs)), asked)

    def _stream_chat(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any], *, is_prompt: bool = False
    ) -> ChatResponseGen:
        asked = self._asked(messages, kwargs, stream=True, is_prompt=is_prompt)
        answers = pieces(self._hub.sync(*self._limits(kwargs)), asked)
        return self._object(answers) if self._makes_objects and kwargs.get("tools") else answers

    def _astream_chat(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any], *, is_prompt: bool = False
    ) -> ChatResponseAsyncGen:
        asked = self._asked(messages, kwargs, stream=True, is_prompt=is_prompt)
        answers = apieces(self._hub.tasks(*self._limits(kwargs)), asked)
        return self._aobject(answers) if self._makes_objects and kwargs.get("tools") else answers

    def _asked(
        self,
        messages: Sequence[ChatMessage],
        kwargs: Mapping[str, Any],
        *,
        stream: bool = False,
        is_prompt: bool = False,
    ) -> Asked:
        """What LlamaIndex asks for.

        Raises:
            UsageError: Something of it cannot work.
        """
        if unknown := kwargs.keys() - _PER_CALL:
            raise UsageError(
                f"QwenConv has no parameter {', '.join(map(repr, sorted(unknown)))}. The service "
                "ignores what it does not know; what it does know goes in extra_body."
            )
        model = kwargs.get("model") or self.model
        settings = self._settings(kwargs)
        checked_sampling(**{name: settings.get(name) for name in SAMPLING})
        count = 0
        while (
            count < len(messages)
            and mapping.is_system(messages[count])
            and FORM.held(messages[count]) is None  # one that was read is an item, and stays one
        ):
            count += 1
        rest = messages[count:]
        instructions = mapping.instructions(messages[:count])
        is_prompt = is_prompt or self._is_detached
        mirror = None if is_prompt else self._mirror_of(rest)
        bound_to = None if is_prompt else self.conversation_id or self.session_id
        selects = bound_to is not None and mirror is None
        request = TurnRequest(
            local_list(rest, model),
            model,
            checked_text(instructions, "the system prompt") or None,
            settings,
            stream,
            self.conversation_id if selects else None,
            self.session_id if selects else None,
            None,
            self.on_divergence,
            as_held,
            self.on_unanswered_call,
        )
        return Asked(request, rest, mirror, bound_to)

    def _mirror_of(self, messages: Sequence[ChatMessage]) -> Mirror | None:
        """The mirror that the turn may belong to: the bound one's, or that of the messages."""
        bound = self.conversation_id or self.session_id
        if bound is not None:
            return self._hub.mirrors.find(bound)
        found = {
            id(held.mirror): held.mirror
            for message in messages
            if (held := FORM.held(message)) is not None
            and held.mirror is not None
            and held.mirror.hub is self._hub
        }
        return next(iter(found.values())) if len(found) == 1 else None

    def _settings(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return settings_to_wire(
            self.extra_body,
            kwargs.get("extra_body"),
            temperature=kwargs.get("temperature", self.temperature),
            top_p=kwargs.get("top_p", self.top_p),
            max_tokens=kwargs.get("max_tokens", self.max_tokens),
            reasoning_effort=kwargs.get("reasoning_effort", self.reasoning_effort),
            enable_thinking=kwargs.get("enable_thinking", self.enable_thinking),
            tools=[tool_to_wire(tool) for tool in kwargs.get("tools") or ()],
            tool_choice=kwargs.get("tool_choice"),
            parallel_tool_calls=kwargs.get("parallel_tool_calls"),
        )

    def _limits(self, kwargs: Mapping[str, Any]) -> tuple[float | None, int | None]:
        return kwargs.get("timeout", self.timeout), kwargs.get("max_retries", self.max_retries)

    def _detached(self, *, makes_objects: bool = False) -> Self:
        """This LLM without any conversation.

        Args:
            makes_objects: Whether its streams are an object each: LlamaIndex does not have a model
                told, as it does where an answer comes whole, that it has to call the tool.
        """
        copy = self.model_copy()
        copy._is_detached = True  # noqa: SLF001 - it is one of us
        copy._makes_objects = makes_objects  # noqa: SLF001
        return copy

    def _object(self, answers: ChatResponseGen) -> ChatResponseGen:
        """The object that a stream is: a call's arguments are shown whole, or not at all."""
        with closing(answers):
            *_, last = answers
        yield self._as_objects(last)

    async def _aobject(self, answers: ChatResponseAsyncGen) -> ChatResponseAsyncGen:
        async with aclosing(answers):
            *_, last = [piece async for piece in answers]
        yield self._as_objects(last)

    def _as_objects(self, answer: ChatResponse) -> ChatResponse:
        self.get_tool_calls_from_response(answer)  # LlamaIndex would pass over what is wrong there
        return as_objects(answer)

    # --- Tools --------------------------------------------------------------------------------

    def _prepare_chat_with_tools(  # noqa: PLR0917 - LlamaIndex's signature
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,  # noqa: ARG002 - LlamaIndex's
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of a chat with these tools.

        A conversation holds all the calls of an answer, and wants all their results: there they
        may be several although one was asked for.

        Raises:
            UsageError: A function has the name of one of the service's own tools.
        """
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        prepared = {
            "messages": [*(chat_history or ()), *([user_msg] if user_msg else ())],
            **kwargs,
        }
        if tools:
            prepared["tools"] = [tool_to_wire(tool) for tool in tools]
            if tool_choice or tool_required or self._makes_objects:
                prepared["tool_choice"] = tool_choice or "required"
            if not allow_parallel_tool_calls:
                prepared["parallel_tool_calls"] = False
        return prepared

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,
        **_: Any,
    ) -> list[ToolSelection]:
        """The tool calls of a response, in order.

        Raises:
            ValueError: There are none, and that is an error.
            ServiceFailedError: The arguments of a call were cut, or are no JSON object.
        """
        blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not blocks and error_on_no_tool_call:
            raise ValueError("The model was to call a tool, and called none.")
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=arguments_of_call(block),
            )
            for block in blocks
        ]


def _completions(answers: ChatResponseGen) -> CompletionResponseGen:
    with closing(answers):
        yield from map(completion, answers)


async def _acompletions(answers: ChatResponseAsyncGen) -> CompletionResponseAsyncGen:
    async with aclosing(answers):
        async for answer in answers:
            yield completion(answer)


_PROMPTS = (
    "predict",
    "apredict",
    "stream",
    "astream",
    "structured_predict",
    "astructured_predict",
    "stream_structured_predict",
    "astream_structured_predict",
    "predict_and_call",
    "apredict_and_call",
)
"""What engines ask beside the conversation: LlamaIndex makes a chat of each, like any other."""


def _on_no_conversation(name: str) -> Callable[..., Any]:
    method = getattr(FunctionCallingLLM, name)
    makes_objects = "stream_structured" in name

    def detached(self: QwenConv, *args: Any, **kwargs: Any) -> Any:
        return method(self._detached(makes_objects=makes_objects), *args, **kwargs)

    async def adetached(self: QwenConv, *args: Any, **kwargs: Any) -> Any:
        return await detached(self, *args, **kwargs)

    return wraps(method)(adetached if inspect.iscoroutinefunction(method) else detached)


for _name in _PROMPTS:
    setattr(QwenConv, _name, _on_no_conversation(_name))

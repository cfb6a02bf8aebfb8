"""`ChatQwenConv`: a LangChain chat model whose turns run on a server-side conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator

import langchain_qwen_conv.blocks  # noqa: F401 - tells LangChain how it shows our answers
from langchain_qwen_conv import messages
from langchain_qwen_conv.errors import as_model_errors
from langchain_qwen_conv.profiles import PROVIDER, profile_of
from langchain_qwen_conv.reports import reported
from langchain_qwen_conv.routing import AgentThread, RoutedChatModel
from langchain_qwen_conv.tools import tool_to_wire
from qwen_conv._version import __version__
from qwen_conv.api import finish
from qwen_conv.decision import OnDivergence
from qwen_conv.errors import UsageError, own_cause
from qwen_conv.hub import QwenConversations
from qwen_conv.limits import (
    SAMPLING,
    checked_conversation_id,
    checked_sampling,
    checked_text,
    checked_thinking,
)
from qwen_conv.local import LocalList
from qwen_conv.pairing import OnUnansweredCall
from qwen_conv.registry import Registry
from qwen_conv.settings import settings_to_wire
from qwen_conv.stops import Stop
from qwen_conv.tools import choice_to_wire

if TYPE_CHECKING:
    from qwen_conv.turn import TurnRequest

_PER_CALL = frozenset(
    {
        "conversation_id",
        "session_id",
        "previous_response_id",
        "on_divergence",
        "on_unanswered_call",
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
        "stream",
        "history_run",
        "agent_thread",
    }
)
"""What a single call may say, besides its messages and `stop`."""

_HUB_SETTINGS = (
    "api_key",
    "base_url",
    "region",
    "registry",
    "default_headers",
    "client",
    "async_client",
)


class ChatQwenConv(RoutedChatModel):
    """A Qwen chat model whose turns run on a server-side conversation.

    Pass whatever list of messages you like: the model sends what the conversation lacks, once.

    Setup:
        Install `qwen-conv[langchain]` and set `DASHSCOPE_API_KEY`.

    Key init args - which conversation:
        conversation_id: The id of an existing conversation (`conv_...`), for instance that of
            `hub.run(qwen_conv.flows.create)`.
        session_id: A name of your own, which the hub's registry binds to a conversation. The
            conversation is created with the first turn.
        Neither: stateless calls; all messages are sent and nothing is stored. Or, with
            `state="response"`, each turn follows the response of the last one.
        A call can say otherwise: `invoke(..., conversation_id=...)` or `session_id=...`, or
        `config={"configurable": {"qwen_conversation_id": ...}}`, or `{"session_id": ...}` there
        if the model was given a hub or a registry and no conversation_id. The config reaches
        every model that is called inside: `with_conversation(None)` is a model that no config
        moves. Nothing else selects a conversation.
        on_divergence: What to do if the messages do not continue the conversation: "rebase",
            "raise", "ignore" or "stateless".
        on_unanswered_call: What to do about a tool call without a result: "answer" or "raise".
        system_prompt: Where leading system messages go: "instructions" or "item".

    Key init args - completion:
        model: The model's name, as `qwen3.6-plus`.
        temperature: 0 <= temperature < 2.
        top_p: 0 < top_p <= 1.
        max_tokens: At least 16.
        reasoning_effort: How much to think, from "none" to "max".
        enable_thinking: Whether to think.
        stop: Texts to end an answer before. Only in stateless calls: the service has no such
            parameter, and an answer that is cut here would stay whole in the conversation.
        streaming: Whether `invoke` streams as well.
        extra_body: Parameters of the service that have no field.

    Key init args - client:
        conversations: The hub to share with other models, histories and stores. Without one, the
            model makes its own from `api_key`, `base_url`, `region`, `registry`,
            `default_headers`, `client` and `async_client`; see `qwen_conv.QwenConversations`.
        timeout: Seconds.
        max_retries: For requests that may be sent twice, and turns that certainly were not stored.

    Instantiate:
        ```python
        from langchain_qwen_conv import ChatQwenConv

        chat = ChatQwenConv(model="qwen3.6-plus", session_id="alice")
        ```

    Invoke:
        ```python
        chat.invoke([("system", "Answer in one sentence."), ("human", "How old is Alice?")])
        ```

    Stream:
        ```python
        for chunk in chat.stream("What are her hobbies?"):
            print(chunk.text, end="")
        ```

    Async:
        ```python
        await chat.ainvoke("And who is her best friend?")
        ```

    Tool calling:
        Pass the results back; a call that is given none is told that it was not executed:

        ```python
        messages = [HumanMessage("How is the weather in Singapore?")]
        messages.append(chat.bind_tools([get_weather]).invoke(messages))
        for call in messages[-1].tool_calls:
            messages.append(get_weather.invoke(call))
        chat.bind_tools([get_weather]).invoke(messages)
        ```

    Structured output:
        It works by a tool call, in a conversation as well:

        ```python
        chat.with_structured_output(Person).invoke("Bob is 20.")
        ```

    Token usage:
        ```python
        answer.usage_metadata  # cached and reasoning tokens too
        ```

    Response metadata:
        ```python
        answer.response_metadata["decision"]  # "attached", "rebased", "stateless" or "chained"
        answer.response_metadata["reason"]
        answer.response_metadata["conversation_id"]  # of a turn in a conversation
        ```
    """

    model: str = Field(validation_alias=AliasChoices("model", "model_name"))
    """The model's name."""

    on_divergence: OnDivergence | None = None
    """What to do if the messages are not what the conversation holds, followed by new ones:
    "rebase" (begin a new conversation from the list; the default with a session), "raise" (the
    default with a bare id), "ignore" (send what stands behind the last answer), or "stateless"
    (send the whole list on no conversation)."""
    on_unanswered_call: OnUnansweredCall = "answer"
    """What to do about a tool call that was given no result, after which the service takes no turn:
    tell it that it was not executed ("answer"), or raise `UnansweredCallError` ("raise")."""

    system_prompt: Literal["instructions", "item"] = "instructions"
    """Where leading system messages go: into the turn's `instructions`, sent every time and never
    stored, or into the conversation, where they expire after seven days like every item, and are
    stored anew by each call that passes only new messages."""

    temperature: float | None = None
    """0 <= temperature < 2; by default the service's."""

    top_p: float | None = None
    """0 < top_p <= 1; by default the service's."""

    max_tokens: int | None = None
    """Tokens of an answer, 16 or more; whether reasoning counts depends on the model."""

    reasoning_effort: str | None = None
    """How much to think: "none", "minimal", "low", "medium", "high", "xhigh" or "max"; by default
    the model's. What was thought is in the answer, and never sent back."""

    enable_thinking: bool | None = None
    """Whether to think; the service is giving this up for `reasoning_effort`
    (help.aliyun.com, "OpenAI compatible - Responses", enable_thinking; read 2026-11-20)."""

    stop: list[str] | None = Field(
        default=None, validation_alias=AliasChoices("stop", "stop_sequences")
    )
    """Texts to end an answer before; only in stateless calls."""

    streaming: bool = False
    """Whether `invoke` streams as well."""

    timeout: float | None = Field(
        default=None, validation_alias=AliasChoices("timeout", "request_timeout")
    )
    """Seconds to wait for an answer; by default the hub's."""

    max_retries: int | None = None
    """How often a request is sent again that may be sent twice, and a turn that certainly was not
    stored; by default the hub's."""

    api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("api_key", "dashscope_api_key")
    )
    """The key; by default the one in DASHSCOPE_API_KEY."""

    base_url: str | None = None
    """The service; by default DASHSCOPE_BASE_URL, or the region's."""

    region: str | None = None
    """"ap-southeast-1" (Singapore, the default) or "cn-beijing"."""

    registry: Registry | None = Field(default=None, exclude=True, repr=False)
    """Which conversation a session is; by default one that lasts as long as the process."""

    default_headers: Mapping[str, str] | None = Field(default=None, exclude=True, repr=False)
    """Sent with every request."""

    client: Any = Field(default=None, exclude=True, repr=False)
    """A ready `openai.OpenAI`."""

    async_client: Any = Field(default=None, exclude=True, repr=False)
    """A ready `openai.AsyncOpenAI`."""

    extra_body: Mapping[str, Any] | None = None
    """Parameters of the service that have no field here. The service ignores what it does not
    know."""

    def __init__(self, **settings: Any) -> None:
        """Checks the settings, and makes a hub if none was given.

        Raises:
            MissingKeyError: There is no key.
            UsageError: A setting is out of its range, or two of them contradict each other.
            ValidationError: A setting is unknown, or of the wrong type (pydantic's error).
        """
        try:
            super().__init__(**settings)
        except ValidationError as error:
            own = own_cause(error)
            if own is None:
                raise
            with as_model_errors(in_conversation=False):
                raise own from None

    @model_validator(mode="after")
    def _set_qwen_conv_version(self) -> Self:
        self._add_version("qwen-conv", __version__)
        return self

    @model_validator(mode="after")
    def _check_and_connect(self) -> Self:
        if self.conversation_id is not None:
            checked_conversation_id(self.conversation_id)
            if self.session_id is not None:
                raise UsageError("Pass conversation_id or session_id, not both.")
        if self.state == "response" and self._in_conversation({}):
            raise UsageError(
                "state='response' has each turn follow the last one's response, and no "
                "conversation: leave out conversation_id and session_id, or state."
            )
        # LangChain's own tests make models with max_tokens=10: the turn checks its minimum.
        checked_sampling(temperature=self.temperature, top_p=self.top_p, stop=self.stop)
        checked_thinking(effort=self.reasoning_effort, enabled=self.enable_thinking)
        values = {name: getattr(self, name) for name in _HUB_SETTINGS}
        given = {name: value for name, value in values.items() if value is not None}
        self.conversations = QwenConversations.of(self.conversations, **given)
        self.api_key, self.base_url = self.conversations.api_key, self.conversations.base_url
        return self

    # What a turn needs is imported by the first one: an import need not wait for it.

    # --- One turn -----------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - nothing to tell
        **kwargs: Any,
    ) -> ChatResult:
        from langchain_qwen_conv import answers
        from qwen_conv.turns import take

        with as_model_errors(in_conversation=self._in_conversation(kwargs)):
            request = self._request(messages, stop, kwargs)
            api = self._hub.sync(*self._patience(kwargs))
            with reported(kwargs.get("history_run"), self._hub, request, messages) as report:
                outcome = report.outcome = finish(take(api, report.request))
        message = answers.whole_message(outcome, Stop(self._stop(stop)))
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        from langchain_qwen_conv import answers
        from qwen_conv.turns import take

        with as_model_errors(in_conversation=self._in_conversation(kwargs)):
            request = self._request(messages, stop, kwargs)
            api = self._hub.tasks(*self._patience(kwargs))
            with reported(kwargs.get("history_run"), self._hub, request, messages) as report:
                outcome = report.outcome = await take(api, report.request)
        message = answers.whole_message(outcome, Stop(self._stop(stop)))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        from langchain_qwen_conv import answers
        from qwen_conv.turns import begin, deltas, end

        ending = Stop(self._stop(stop))
        with as_model_errors(in_conversation=self._in_conversation(kwargs)):
            request = self._request(messages, stop, kwargs, stream=True)
            api = self._hub.sync(*self._patience(kwargs))
            with (
                reported(kwargs.get("history_run"), self._hub, request, messages) as report,
                finish(begin(api, report.request)) as turn,
            ):
                with closing(deltas(api, turn)) as pieces:
                    for delta in pieces:
                        chunk = ChatGenerationChunk(message=answers.chunk(delta, ending))
                        if run_manager:
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
                outcome = report.outcome = finish(end(api, turn))
        yield ChatGenerationChunk(message=answers.last_chunk(outcome, ending))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        from langchain_qwen_conv import answers
        from qwen_conv.turns import adeltas, begin, end

        ending = Stop(self._stop(stop))
        with as_model_errors(in_conversation=self._in_conversation(kwargs)):
            request = self._request(messages, stop, kwargs, stream=True)
            api = self._hub.tasks(*self._patience(kwargs))
            with (
                reported(kwargs.get("history_run"), self._hub, request, messages) as report,
                await begin(api, report.request) as turn,
            ):
                async with aclosing(adeltas(api, turn)) as pieces:
                    async for delta in pieces:
                        chunk = ChatGenerationChunk(message=answers.chunk(delta, ending))
                        if run_manager:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
                outcome = report.outcome = await end(api, turn)
        yield ChatGenerationChunk(message=answers.last_chunk(outcome, ending))

    def _request(
        self,
        messages_given: list[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        *,
        stream: bool = False,
    ) -> TurnRequest:
        """What LangChain asks for, as a turn.

        Raises:
            UsageError: Something of it cannot work.
        """
        from langchain_qwen_conv import answers
        from qwen_conv.turn import TurnRequest

        if unknown := kwargs.keys() - _PER_CALL:
            raise UsageError(
                f"ChatQwenConv has no parameter {', '.join(map(repr, sorted(unknown)))}. The "
                "service ignores what it does not know; what it does know goes in extra_body."
            )
        if self._stop(stop):
            checked_sampling(stop=stop)
            if self.state == "response" or self._in_conversation(kwargs):
                raise UsageError(
                    "stop cannot be used where the service keeps the context: it has no such "
                    "parameter, and an answer that is cut here would stay whole there. Pass "
                    "stop=[], or take the call on no conversation and without state='response'."
                )
        settings = self._settings(kwargs)
        checked_sampling(**{name: settings.get(name) for name in SAMPLING})
        system, rest = self._parted(messages_given)
        selected = self._selected(kwargs)
        thread: AgentThread | None = kwargs.get("agent_thread")
        return TurnRequest(
            LocalList(rest, messages.to_entry, messages.keys(rest), messages.stamp_of),
            kwargs.get("model") or self.model,
            checked_text(messages.instructions(system), "the system prompt") or None,
            settings,
            stream,
            selected["conversation_id"],
            selected["session_id"],
            kwargs.get("previous_response_id"),
            kwargs.get("on_divergence") or (thread or self).on_divergence,
            answers.as_held,
            kwargs.get("on_unanswered_call") or self.on_unanswered_call,
            chains=self.state == "response",
            **_looked_after(thread),
        )

    def _parted(self, given: list[BaseMessage]) -> tuple[list[BaseMessage], list[BaseMessage]]:
        """The system messages that go into the instructions, and the other messages.

        One that was read from a conversation is one of its items, and stays where it is.
        """
        system: list[BaseMessage] = []
        for message in given if self.system_prompt == "instructions" else ():
            if not messages.is_system(message) or messages.STAMP in message.response_metadata:
                break
            system.append(message)
        return system, given[len(system) :]

    def _settings(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a turn under their names on the wire; those not set are left out.

        Raises:
            UsageError: A tool cannot be passed on, or the choice is none of the tools.
        """
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

    def _stop(self, stop: list[str] | None) -> list[str]:
        return (self.stop if stop is None else stop) or []

    def _patience(self, kwargs: Mapping[str, Any]) -> tuple[float | None, int | None]:
        return kwargs.get("timeout", self.timeout), kwargs.get("max_retries", self.max_retries)

    # --- What LangChain asks of an integration ------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools that it may call.

        Args:
            tools: Functions, pydantic models, LangChain tools, JSON schemas, or the service's own
                tools, such as `{"type": "web_search"}`.
            tool_choice: "auto", "none", "any" or "required" (call one of them), or a tool's name.
            strict: Passed on in the tools' schemas.
            **kwargs: Further arguments of every call.

        Raises:
            UsageError: A function has the name of one of the service's own tools, or the choice
                is none of the tools.
        """
        with as_model_errors(in_conversation=False):
            wires = [tool_to_wire(tool, strict=strict) for tool in tools]
            if tool_choice:
                kwargs["tool_choice"] = choice_to_wire(tool_choice, wires)
        bound: Runnable[LanguageModelInput, AIMessage] = self.bind(tools=wires, **kwargs)
        return bound

    @property
    def _llm_type(self) -> str:
        return "qwen-conv"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "base_url": self.base_url,
            "stop": self.stop,
            **self._settings({}),
        }

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # LangChain's own asks the deprecated `dict` under a warnings filter, at every call.
        for ours in ("history_run", "agent_thread"):
            kwargs.pop(ours, None)
        return {**self.asdict(), "stop": stop, **kwargs}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_type="chat",
            ls_model_name=kwargs.get("model") or self.model,
        )
        if (temperature := kwargs.get("temperature", self.temperature)) is not None:
            params["ls_temperature"] = temperature
        if (max_tokens := kwargs.get("max_tokens", self.max_tokens)) is not None:
            params["ls_max_tokens"] = max_tokens
        if words := self._stop(stop):
            params["ls_stop"] = words
        return params

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[Any] | None = None,
    ) -> int:
        """About how many tokens the messages are; Qwen's tokenizer is not at hand here."""
        return count_tokens_approximately(messages, tools=list(tools) if tools else None)

    def get_num_tokens(self, text: str) -> int:
        """About how many tokens the text is."""
        return count_tokens_approximately([HumanMessage(text)])

    def _resolve_model_profile(self) -> ModelProfile | None:
        return profile_of(self.model)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether LangChain can write the model down and make it again: yes, without its key."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The key is written as the name of its environment variable."""
        return {"api_key": "DASHSCOPE_API_KEY"}


def _looked_after(thread: AgentThread | None) -> dict[str, Any]:
    """What an agent's thread says of a turn, as `TurnRequest` has it."""
    if thread is None:
        return {}
    return {
        "span": thread.span,
        "looks": thread.looks,
        "metadata": thread.metadata,
        "keeper": thread,
    }


# LangChain asks for the signature of `_generate` at every call. Told once, it need not be worked
# out each time, which took 10 µs of a turn's 140 outside the HTTP client (2026-11-20).
ChatQwenConv._generate.__signature__ = signature(ChatQwenConv._generate)  # type: ignore[attr-defined]  # noqa: SLF001

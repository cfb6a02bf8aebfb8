"""A conversation whose model takes its turns across a relay: LangChain and LlamaIndex."""

from collections.abc import Callable

import pytest
from conftest import (
    MODEL,
    ainvoke,
    asked,
    astream,
    invoke,
    said,
    stream,
)
from llama_llm import CREATED, EVENTS, framed
from llama_llm import WAYS as LLAMA_WAYS
from lossy import Answer, put_off, relayed

from langchain_qwen_conv import ChatQwenConv
from llamaindex_qwen_conv import QwenConv
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.offline import OfflineServer

LOOK, TURN = "GET /conversations/*/items", "POST /responses"
TAKES = {"invoke": invoke, "stream": stream, "ainvoke": ainvoke, "astream": astream}
WAYS = {
    **{f"langchain {name}": ("langchain", way) for name, way in TAKES.items()},
    **{f"llamaindex {name}": ("llamaindex", way) for name, way in LLAMA_WAYS.items()},
}
FOUR = ("langchain invoke", "langchain astream", "llamaindex achat", "llamaindex stream_chat")
STREAMING = [name for name in WAYS if "stream" in name]


class Talk:
    """A conversation, and a model that takes turns on it across a relay."""

    def __init__(self, way: str, server: OfflineServer, relay, **settings) -> None:
        self.server, self.relay = server, relay
        settings.setdefault("settle_timeout", 0.0)
        self.hub = QwenConversations(api_key="any", base_url=relay.base_url, **settings)
        self.id = self.hub.run(flows.create).id
        self._framework, self._ask = WAYS[way]
        self._sort = ChatQwenConv if self._framework == "langchain" else QwenConv
        self.model = self.another(self.hub)
        server.requests.clear()

    def another(self, hub):
        return self._sort(model=MODEL, conversations=hub, conversation_id=self.id)

    def ask(self, question: str, **kwargs) -> str:
        """The answer's text."""
        answer = self._ask(self.model, question, **kwargs)
        return answer.text if self._framework == "langchain" else answer.message.content

    def lose(self, question: str) -> Callable[[], object]:
        """Asks, and nobody knows what became of it; what is returned carries it out."""
        waiting: list[Callable[[], object]] = []
        self.relay.faults = [put_off(waiting)]
        with pytest.raises(errors.UndecidedError):
            self.ask(question)
        return waiting.pop()

    @property
    def holds(self) -> list[str]:
        return said(self.server, self.id)

    def turn(self, question: str) -> list[str]:
        """What a turn leaves that asks this."""
        return [f"user: {question}", f"assistant: You said: {question}"]

    @property
    def asked(self) -> list[str]:
        return asked(self.server)


@pytest.fixture
def relay(server):
    with relayed(server.base_url) as relay:
        yield relay


@pytest.fixture(params=FOUR)
def talk(request, server, relay):
    server.script = echo
    return Talk(request.param, server, relay)


@pytest.fixture(params=STREAMING)
def streamed(request, server, relay):
    server.script = echo
    return Talk(request.param, server, relay)


def echo(context, _request):
    return f"You said: {context[-1]['content'][0]['text']}"


def failing(code, message="sorry"):
    """The answer of a stream that begins and fails."""
    error = {"code": code, "message": message}
    failed = {"type": "response.failed", "response": {"id": "r1", "error": error}}
    return Answer(200, EVENTS, framed(CREATED, failed))


def failing_late(waiting, code):
    """A stream that begins and fails; what is put on the list then stores what was asked."""

    def fault(request):
        waiting.append(request.carry_out)
        request.answer(failing(code))

    return fault


def stored_after_a_look(waiting):
    """Has what waits be carried out once a look has found nothing."""

    def is_lost(method, _path):
        if method == "GET" and waiting:
            waiting.pop()()
        return False

    return is_lost

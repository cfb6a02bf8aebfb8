"""LangChain's own tests for chat models, on the offline server, with and without a conversation.

They run where langchain-tests does: it holds vcrpy below 9.
"""

from itertools import count
from types import SimpleNamespace
from uuid import UUID

import pytest

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations
from qwen_conv.errors import UsageError
from qwen_conv.offline import CallTool, OfflineServer
from qwen_conv.offline.responder import text_of
from recording import provenance
from recording.__main__ import versions
from recording.tape import FOLDER, PINNED, Provenance, recording, replaying

pytest.importorskip("langchain_tests", reason="langchain-tests holds vcrpy below 9")

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

MODEL = "qwen3.6-plus"
NUMBERS = count()
NO_STOP = "the service has no stop: it is refused where the service keeps the context"
CASSETTE = FOLDER / "offline" / "standard_tests.yaml"


@pytest.fixture(scope="module", autouse=True)
def _server():
    with OfflineServer(calls_the_first_tool) as server:
        OnServer.hub = QwenConversations(api_key="any", base_url=server.base_url)
        yield


@pytest.fixture(autouse=True)
def _pictures(monkeypatch):
    """What LangChain's tests would get from the web, a picture or a sound: any bytes will do."""
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "nobody asks")
    monkeypatch.setattr("httpx.get", lambda *_, **__: SimpleNamespace(content=b"of the web"))
    # A cassette knows only the ids of calls that were made up when it was recorded.
    numbers = count()
    made_up_ids = SimpleNamespace(uuid4=lambda: UUID(int=next(numbers)))
    monkeypatch.setattr("langchain_core.utils.function_calling.uuid", made_up_ids)


def calls_the_first_tool(context, request):
    """Calls the first tool once, with arguments of its schema; says something otherwise."""
    if request.get("tools") and context[-1].get("type") != "function_call_output":
        schema = request["tools"][0]["parameters"]
        question = text_of(context[-1])
        return CallTool(request["tools"][0]["name"], made_up(schema, schema, question))
    return "An answer of several words, one after the other."


def made_up(schema, whole, text):
    """A value of a JSON schema, with a text for every string."""
    match schema:
        case {"$ref": name}:
            return made_up(whole["$defs"][name.rpartition("/")[2]], whole, text)
        case {"enum": [first, *_]}:
            return first
        case {"anyOf": [first, *_]}:
            return made_up(first, whole, text)
        case {"type": "object"}:
            properties = schema.get("properties", {})
            return {name: made_up(one, whole, text) for name, one in properties.items()}
        case {"type": "array"}:
            return [made_up(schema["items"], whole, text)]
        case {"type": "integer" | "number"}:
            return 3
    return text


class TestUnit(ChatModelUnitTests):
    chat_model_class = ChatQwenConv
    chat_model_params = {"model": MODEL, "api_key": "any"}
    init_from_env_params = (
        {"DASHSCOPE_API_KEY": "any", "DASHSCOPE_BASE_URL": "https://example.com/v1"},
        {"model": MODEL},
        {"api_key": "any", "base_url": "https://example.com/v1"},
    )

    @pytest.mark.xfail(reason="loads what LangChain's own list of classes names, and nothing else")
    def test_serdes(self, model, snapshot):
        super().test_serdes(model, snapshot)


class OnServer(ChatModelIntegrationTests):
    hub = None
    chat_model_class = ChatQwenConv
    standard_chat_model_params = {"temperature": 0, "max_tokens": 100}
    model_override_value = "qwen3-max"
    supports_image_inputs = True
    supports_image_urls = True
    supports_audio_inputs = True
    supports_anthropic_inputs = True
    returns_usage_metadata = True

    @property
    def chat_model_params(self):
        return {"model": MODEL, "conversations": self.hub}


class TestStateless(OnServer):
    pass


class TestInAConversation(OnServer):
    @property
    def chat_model_params(self):
        return super().chat_model_params | {"session_id": f"test {next(NUMBERS)}"}

    @pytest.mark.xfail(raises=UsageError, strict=True, reason=NO_STOP)
    def test_stop_sequence(self, model):
        super().test_stop_sequence(model)


class TestReplayed(OnServer):
    """The same from a cassette, with the network blocked; `make record-standard` records it."""

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def _tape(request):
        if request.config.getoption("--record-standard"):
            source = Provenance("offline", f"qwen_conv.offline {versions()}")
            with (
                OfflineServer(calls_the_first_tool) as server,
                recording(CASSETTE, [server.base_url], source),
            ):
                TestReplayed.hub = QwenConversations(api_key="any", base_url=server.base_url)
                yield
            provenance.write(FOLDER)
        else:
            with replaying(CASSETTE):
                TestReplayed.hub = QwenConversations(api_key="any", base_url=PINNED)
                yield


class TestFollowingResponses(OnServer):
    @property
    def chat_model_params(self):
        return super().chat_model_params | {"state": "response"}

    @pytest.mark.xfail(raises=UsageError, strict=True, reason=NO_STOP)
    def test_stop_sequence(self, model):
        super().test_stop_sequence(model)

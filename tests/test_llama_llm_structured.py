"""Structured output: by a tool call that the model has to make, never by `text.format`."""

import asyncio
import logging

import pytest
from conftest import MODEL, always
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from llama_llm import COMPLETIONS, WAYS, hearing, llm_at
from pydantic import BaseModel, Field

from llamaindex_qwen_conv import QwenConv
from qwen_conv import errors
from qwen_conv.offline import CallTool, OfflineServer, Say, Think


class Person(BaseModel):
    """A person."""

    name: str = Field(description="Their name.")
    age: int = 0


ALICE = CallTool("Person", {"name": "Alice", "age": 30}, "c1")
PROMPT = PromptTemplate("Who is {who}?")


def structured_predict(llm, **kwargs):
    return [llm.structured_predict(Person, PROMPT, who="Alice", **kwargs)]


def astructured_predict(llm, **kwargs):
    return [asyncio.run(llm.astructured_predict(Person, PROMPT, who="Alice", **kwargs))]


def stream_structured_predict(llm, **kwargs):
    return [*llm.stream_structured_predict(Person, PROMPT, who="Alice", **kwargs)]


def astream_structured_predict(llm, **kwargs):
    async def collected():
        objects = await llm.astream_structured_predict(Person, PROMPT, who="Alice", **kwargs)
        return [each async for each in objects]

    return asyncio.run(collected())


PREDICTIONS = {
    "structured_predict": structured_predict,
    "astructured_predict": astructured_predict,
    "stream_structured_predict": stream_structured_predict,
    "astream_structured_predict": astream_structured_predict,
}


@pytest.fixture(params=PREDICTIONS)
def predict(request):
    """Asks for an object in one of the four ways; all that is shown of it."""
    return PREDICTIONS[request.param]


def test_an_object_is_what_a_tool_is_called_with(predict):
    with OfflineServer(always(ALICE)) as server:
        assert predict(llm_at(server)) == [Person(name="Alice", age=30)]
        body = server.requests[-1].body
    assert body["input"] == "Who is Alice?"
    assert body["store"] is False
    assert body["tool_choice"] == "required"
    (tool,) = body["tools"]
    assert (tool["name"], tool["description"]) == ("Person", "A person.")
    assert tool["parameters"]["required"] == ["name"]
    assert "text" not in body


def test_what_the_model_says_beside_it_is_no_object(predict):
    answer = [Think("who is that?"), Say("Let me see."), ALICE]
    with OfflineServer(always(answer)) as server:
        assert predict(llm_at(server)) == [Person(name="Alice", age=30)]


@pytest.mark.parametrize("call_arguments", ["deltas", "done", "item", "response"])
def test_it_is_whole_whatever_event_brings_the_arguments(predict, call_arguments):
    with OfflineServer(always(ALICE), call_arguments=call_arguments) as server:
        assert predict(llm_at(server)) == [Person(name="Alice", age=30)]


def test_the_first_of_several_objects_is_taken(predict):
    with OfflineServer(always([ALICE, CallTool("Person", {"name": "Bob"})])) as server:
        assert predict(llm_at(server)) == [Person(name="Alice", age=30)]


def test_a_model_that_calls_no_tool_gives_no_empty_object(predict):
    with (
        OfflineServer(always("I would rather not.")) as server,
        pytest.raises(ValueError, match="called none"),
    ):
        predict(llm_at(server))


@pytest.mark.parametrize("arguments", ['{"name": "Al', "[1]"])
def test_an_object_that_was_cut_is_no_object(predict, arguments):
    with (
        OfflineServer(always(CallTool("Person", arguments))) as server,
        pytest.raises(errors.ServiceFailedError, match="'Person' has arguments"),
    ):
        predict(llm_at(server))


@pytest.mark.parametrize("way", ["structured_predict", "astructured_predict"])
def test_an_object_of_another_form_is_refused(way):
    with (
        OfflineServer(always(CallTool("Person", {"age": "old"}))) as server,
        pytest.raises(ValueError, match="could not be parsed into Person"),
    ):
        PREDICTIONS[way](llm_at(server))


def test_what_a_call_may_say_is_passed_on(predict, server, hub):
    server.script = always(ALICE)
    llm = QwenConv(model=MODEL, conversations=hub)
    predict(llm, llm_kwargs={"temperature": 1, "model": "qwen3.8-max"})
    body = server.requests[-1].body
    assert (body["temperature"], body["model"]) == (1, "qwen3.8-max")
    with pytest.raises(errors.UsageError, match="'response_format'"):
        predict(llm, llm_kwargs={"response_format": "json"})


def test_where_text_is_parsed_no_tool_is_offered(predict):
    with OfflineServer(always('{"name": "Alice", "age": 30}')) as server:
        llm = llm_at(server, pydantic_program_mode=PydanticProgramMode.LLM)
        assert predict(llm)[-1] == Person(name="Alice", age=30)
        assert "tools" not in server.requests[-1].body
        assert server.requests[-1].body["store"] is False


def test_it_is_told_of_once_from_beginning_to_end(predict):
    with OfflineServer(always(ALICE)) as server, hearing() as events:
        predict(llm_at(server))
    told = [type(event).__name__ for event in events]
    assert told[0] == "LLMStructuredPredictStartEvent"
    assert told[-1] == "LLMStructuredPredictEndEvent"
    assert told.count("LLMChatStartEvent") == told.count("LLMChatEndEvent") == 1
    assert events[-1].output == Person(name="Alice", age=30)


# --- A structured LLM -------------------------------------------------------------------------


@pytest.fixture
def alices():
    with OfflineServer(always([Say("Let me see."), ALICE])) as server:
        yield server


# LlamaIndex writes what a stream shows with a method that pydantic wants to be rid of.
@pytest.mark.filterwarnings("ignore:The `json` method is deprecated")
@pytest.mark.parametrize("way", WAYS)
def test_a_structured_llm_answers_with_objects_alone(alices, way):
    llm = llm_at(alices).as_structured_llm(Person)
    answer = WAYS[way](llm, [ChatMessage("Be brief.", role="system"), ChatMessage("Who?")])
    assert answer.raw == Person(name="Alice", age=30)
    assert Person.model_validate_json(answer.message.content) == answer.raw
    body = alices.requests[-1].body
    assert (body["instructions"], body["input"]) == ("Be brief.", "Who?")
    assert body["tool_choice"] == "required"
    assert "text" not in body


@pytest.mark.parametrize("way", ["complete", "acomplete"])
def test_a_structured_llm_completes_with_an_object(alices, way):
    (done,) = COMPLETIONS[way](llm_at(alices).as_structured_llm(Person), "Who?")
    assert done.raw == Person(name="Alice", age=30)
    assert Person.model_validate_json(done.text) == done.raw


def test_a_structured_llm_has_the_metadata_of_its_model(alices):
    llm = llm_at(alices)
    assert llm.as_structured_llm(Person).metadata == llm.metadata


def test_nothing_is_logged_about_an_object_that_was_passed_over(predict, caplog):
    caplog.set_level(logging.WARNING)
    with OfflineServer(always([Say("Let me see."), ALICE])) as server:
        predict(llm_at(server))
    assert caplog.records == []

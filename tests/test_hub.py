"""The hub: keys, regions and addresses, what reaches Qwen, and clients for every event loop."""

import asyncio
import copy
import logging
import pickle
import threading

import openai
import pytest
from conftest import KEY, MODEL, nobody
from pydantic import SecretStr

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.calls import CreateResponse
from qwen_conv.items import Message
from qwen_conv.offline import Fail, OfflineServer
from qwen_conv.registry import MemoryRegistry


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in ("DASHSCOPE_API_KEY", "DASHSCOPE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_the_key_and_the_address_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", f"{KEY}\n")
    assert QwenConversations().base_url == "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://example.com/v1/")
    hub = QwenConversations()
    assert (hub.base_url, hub.secret) == ("https://example.com/v1", KEY)


def test_a_region_names_its_address():
    hub = QwenConversations(api_key=KEY, region="cn-beijing")
    assert hub.base_url == "https://dashscope.aliyuncs.com/compatible-mode/v1"


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({}, errors.MissingKeyError, "DASHSCOPE_API_KEY"),
        ({"api_key": " "}, errors.MissingKeyError, "DASHSCOPE_API_KEY"),
        (
            {"api_key": KEY, "region": "mars"},
            errors.UsageError,
            "'ap-southeast-1' and 'cn-beijing'",
        ),
        (
            {"api_key": KEY, "region": "cn-beijing", "base_url": "https://example.com"},
            errors.UsageError,
            "one of the two",
        ),
        ({"api_key": KEY, "base_url": "http://example.com"}, errors.UsageError, "unencrypted"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, kind, says):
    with pytest.raises(kind, match=says):
        QwenConversations(**settings)


def test_the_key_is_in_no_repr_and_no_dump():
    hub = QwenConversations(api_key=SecretStr(KEY), base_url="https://example.com/v1")
    assert KEY not in f"{hub!r}{hub}{vars(hub)}{hub.session('alice')}"


def test_accounts_are_told_apart_without_the_key():
    one, other = (QwenConversations(api_key=f"{KEY}{n}") for n in (1, 2))
    assert one.account != other.account
    assert one.session("alice") != other.session("alice")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_nothing_of_openais_environment_reaches_qwen(way, monkeypatch, server):
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", f"leaked-{name}")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://leaked.example.com")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Leaked: leaked-header\nAuthorization: leaked")
    hub = QwenConversations(
        api_key=KEY, base_url=server.base_url, default_headers={"X-Asked-For": "yes"}
    )
    if way == "sync":
        hub.run(flows.create)
    else:
        asyncio.run(hub.arun(flows.create))
    (request,) = server.requests
    assert "leaked" not in str(request)
    assert request.headers["x-asked-for"] == "yes"
    assert request.headers["user-agent"].startswith("qwen-conv/")


def test_a_key_that_is_refused_says_what_to_check():
    with OfflineServer(api_keys=["another"]) as server:
        hub = QwenConversations(api_key=KEY, base_url=server.base_url)
        with pytest.raises(errors.KeyRefusedError, match=r"region='cn-beijing'") as raised:
            hub.run(flows.create)
    assert raised.value.request_id


def test_a_service_that_echoes_the_key_does_not_make_us_tell_it(caplog):
    caplog.set_level(logging.DEBUG)

    def echo(context, request):
        return Fail(f"The key {KEY} is not entitled.", "AccessDenied", 403)

    with OfflineServer(echo) as server:
        hub = QwenConversations(api_key=KEY, base_url=server.base_url)

        async def ask(api):
            return await api.send(CreateResponse("qwen3.6-plus", (Message.of("user", "hi"),)))

        with pytest.raises(errors.PermissionRefusedError) as raised:
            hub.run(ask)
    error = raised.value
    assert "[api key]" in str(error)
    told = [error, error.args, vars(error), error.__cause__, vars(error.__cause__)]
    assert KEY not in "".join(map(str, told)) + caplog.text


def test_one_hub_serves_several_event_loops_one_after_another_and_at_once(hub):
    conversation = hub.run(flows.create).id

    async def append(number):
        await hub.arun(flows.append, conversation, [Message.of("user", str(number))])

    for number in range(3):
        asyncio.run(append(number))
    threads = [
        threading.Thread(target=asyncio.run, args=(append(number),)) for number in range(3, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = hub.run(flows.read, conversation)
    assert sorted(item.text for item in stored) == ["0", "1", "2", "3", "4", "5"]


def test_the_sync_way_works_inside_a_running_loop(hub):
    async def notebook():
        return hub.run(flows.create).id

    assert asyncio.run(notebook()).startswith("conv_")


def test_a_flow_that_awaits_anything_else_is_told_so(hub):
    async def wrong(api):
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="nothing but its api"):
        hub.run(wrong)


def test_a_ready_client_is_used_and_left_open(server):
    client = openai.OpenAI(api_key=KEY, base_url=server.base_url)
    hub = QwenConversations(client=client)
    assert hub.base_url == server.base_url
    hub.run(flows.create)
    hub.close()
    assert not client.is_closed()
    with pytest.raises(errors.UsageError, match="pass async_client too"):
        asyncio.run(hub.arun(flows.create))
    client.close()


def test_a_closed_hub_opens_again_when_it_is_needed(hub):
    hub.run(flows.create)
    hub.close()
    assert hub.run(flows.create).id


def test_a_copy_of_a_hub_is_the_hub(hub):
    assert copy.deepcopy(hub) is hub
    assert copy.copy(hub) is hub


def test_what_holds_a_key_is_not_pickled_and_says_why(hub):
    for one in (hub, ChatQwenConv(model=MODEL, conversations=hub)):
        with pytest.raises(TypeError, match="it holds a key and open connections"):
            pickle.dumps(one)


def test_hubs_without_a_registry_know_each_others_sessions_and_others_do_not():
    one = QwenConversations(api_key=KEY)
    assert one.registry is QwenConversations(api_key=KEY).registry
    assert QwenConversations(api_key=KEY, registry=MemoryRegistry()).registry is not one.registry


def test_a_session_is_bound_once_and_rebound_only_as_it_was_seen():
    hub = QwenConversations(api_key=KEY, registry=MemoryRegistry())
    registry, alice = hub.registry, hub.session("alice")
    row = registry.bind(alice, "conv_1")
    assert registry.bind(alice, "conv_2") == row
    newer = registry.rebind(row, "conv_3")
    assert (newer.conversation_id, newer.revision) == ("conv_3", 2)
    assert registry.rebind(row, "conv_4") == newer
    hub.forget_session("alice")
    assert registry.get(alice) is None


@pytest.mark.parametrize("other", ["Alice", "alice ", "ali", "alice\u0301", "älice"])
def test_a_session_is_found_by_its_key_to_the_letter(other):
    hub = QwenConversations(api_key=KEY, registry=MemoryRegistry())
    hub.registry.bind(hub.session("alice"), "conv_1")
    assert hub.registry.get(hub.session(other)) is None


def test_a_server_that_cannot_be_reached_is_an_error_of_its_own():
    with nobody() as address:
        hub = QwenConversations(api_key=KEY, base_url=address, max_retries=0)
        with pytest.raises(errors.UnreachableError):
            hub.run(flows.create)
        with pytest.raises(errors.UnreachableError):
            asyncio.run(hub.arun(flows.create))


def test_an_answer_that_is_no_json_is_an_error_of_its_own(server):
    hub = QwenConversations(api_key=KEY, base_url=server.base_url.removesuffix("/v1") + "/v2")
    with pytest.raises(errors.NotFoundError, match="base URL"):
        hub.run(flows.create)

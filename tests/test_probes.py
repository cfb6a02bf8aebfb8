"""The probes find out, from the service alone, which value each switch has, or that they cannot."""

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import fields
from typing import get_args, get_type_hints
from zlib import crc32

import pytest
from conftest import KEY, MODEL, always

from qwen_conv import QwenConversations, errors
from qwen_conv.offline import CallTool, Fail, OfflineServer, Switches, Think
from qwen_conv.offline.responder import text_of
from recording.findings import Finding, settle
from recording.probes import PROBES, UNSETTLEABLE

HINTS = get_type_hints(Switches)
DEFAULTS = {one.name: one.default for one in fields(Switches)}
VALUES = [(name, value) for name in DEFAULTS for value in get_args(HINTS[name])]
NEED_CALLS = {"stored_items", "lone_output", "unanswered_call", "call_arguments"}
SEEN_LAST = {"not_stored", "not_appended", "messages", "dropped"}
"""Values that are seen by what does not show until patience is over."""
LONG, SHORT = 20.0, 0.3  # seconds
LONG_TURN = 1.0  # seconds; a model's turn takes longer than a way there and back


class Model:
    """A script that answers what the probes ask, as a language model would."""

    def __init__(self, server, *, forced=("required",), seconds=0.0, think=False):
        self.server = server
        self.forced = forced
        self.seconds = seconds
        self.think = think

    async def __call__(self, context, request):
        if any(part["type"] == "input_image" for part in context[-1].get("content", ())):
            return Fail("The picture cannot be fetched.", "InvalidParameter", 400)
        answer = CallTool("take_note", {"text": "the shop opens at nine"})
        choice = request.get("tool_choice", "none")
        if choice != "none" and choice not in self.forced:
            return Fail("This model cannot be forced.", "InvalidParameter", 400)
        if choice == "none":
            answer = "yes"
        if "Count" in text_of(context[-1]):
            answer = await self._count(request)
        return [Think("They want something of me."), answer] if self.think else answer

    async def _count(self, request):
        if request.get("stream"):
            return "one " * 20_000  # more than what fits between server and client
        deadline = time.monotonic() + 10
        while len(self._turns(request["conversation"])) < 2:  # until the two have met
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        await asyncio.sleep(self.seconds)
        return "one two three"

    def _turns(self, conversation):
        return [
            one
            for one in self.server.requests
            if one.path == "/responses" and one.body.get("conversation") == conversation
        ]


def found(server, *only, key="any", patience=LONG, script=None):
    """What the probes of these switches, by default all, find on a server whose model answers."""
    server.script = script or Model(server)
    hub = QwenConversations(api_key=key, base_url=server.base_url, max_retries=0)
    with closing(hub):
        findings = [*settle(hub, MODEL, patience=patience, only=only or DEFAULTS)]
    return {one.switch: one for one in findings}


def held_by(server):
    """How many conversations, items and responses a server holds."""
    return server._store._run(
        "select (select count(*) from conversations), (select count(*) from items),"
        " (select count(*) from responses)"
    )[0]


@pytest.fixture
def no_waiting():
    """A server where all that is looked for is found, so that no patience is needed."""
    with OfflineServer(failed_turn="input_stored") as server:
        yield server


def test_every_switch_has_a_probe_and_every_probe_a_switch():
    assert PROBES.keys() == DEFAULTS.keys()
    assert UNSETTLEABLE.keys() <= DEFAULTS.keys()


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_a_probe_finds_the_value_that_the_service_has(name, value):
    with OfflineServer(**{name: value}) as server:
        model = Model(server, seconds=LONG_TURN if value == "serialized" else 0.0)
        patience = SHORT if value in SEEN_LAST else LONG
        (finding,) = found(server, name, script=model, patience=patience).values()
        assert held_by(server) == (0, 0, 0)
    assert finding.switch == name
    assert finding.assumed == DEFAULTS[name]
    if name in UNSETTLEABLE:
        assert (finding.found, finding.held) == (None, None)
        assert finding.evidence == UNSETTLEABLE[name]
    else:
        assert finding.found == value, finding.evidence
        assert finding.held is (value == DEFAULTS[name])


@pytest.mark.parametrize("number", range(8))
def test_no_probe_is_misled_by_what_else_the_service_does_otherwise(number):
    world = {
        name: get_args(HINTS[name])[crc32(f"{number}{name}".encode()) % len(get_args(HINTS[name]))]
        for name in DEFAULTS
    }
    unsettled = {*UNSETTLEABLE}
    if world["stored_items"] == "messages":  # no call is held that could be answered, or left open
        unsettled |= {"lone_output", "unanswered_call"}
    if (world["final_output"], world["call_arguments"]) == ("missing", "response"):
        unsettled |= NEED_CALLS  # a stream tells of no call at all
    last = {name for name, value in world.items() if value in SEEN_LAST}
    last |= NEED_CALLS if "stored_items" in last else set()
    with OfflineServer(**world) as server:
        model = Model(server, seconds=LONG_TURN if "serialized" in world.values() else 0.0)
        findings = found(server, *last, script=model, patience=SHORT)
        findings |= found(server, *(DEFAULTS.keys() - last), script=model)
        assert held_by(server) == (0, 0, 0)
    seen = {name: finding.found for name, finding in findings.items()}
    assert seen == {name: None if name in unsettled else world[name] for name in world}


def test_a_run_takes_few_turns_and_leaves_nothing_behind(no_waiting):
    findings = found(no_waiting)
    assert {one.switch for one in findings.values() if one.held is None} == {*UNSETTLEABLE}
    assert {one.switch for one in findings.values() if one.held is False} == {"failed_turn"}
    turns = [request for request in no_waiting.requests if request.path == "/responses"]
    assert len(turns) == 17
    assert len(no_waiting.requests) <= 130
    assert held_by(no_waiting) == (0, 0, 0)


def test_a_run_that_is_not_read_to_its_end_leaves_nothing_behind(server):
    server.script = Model(server)
    run = settle(QwenConversations(api_key="any", base_url=server.base_url), MODEL, patience=LONG)
    assert next(run).found
    run.close()
    assert held_by(server) == (0, 0, 0)


def test_a_key_that_is_refused_ends_it_at_the_first_request():
    with OfflineServer(api_keys=["another"]) as server:
        with pytest.raises(errors.KeyRefusedError, match="Invalid API-key provided"):
            found(server, key=KEY)
        assert len(server.requests) == 1


def test_an_account_that_may_not_take_turns_ends_it_and_nothing_is_left(server):
    with pytest.raises(errors.PermissionRefusedError, match="Not entitled"):
        found(server, script=always(Fail("Not entitled.", "AccessDenied", 403)))
    assert held_by(server) == (0, 0, 0)


def test_where_turns_fail_only_what_needs_none_is_found_and_the_error_is_told(server):
    broken = Fail("The backend broke.", "InternalError", 500)
    findings = found(server, script=always(broken), patience=SHORT)
    assert findings.keys() == DEFAULTS.keys()
    settled = {one.switch for one in findings.values() if one.found}
    assert settled == {
        "failed_turn",
        "other_items",
        "stream_errors",
        "system_role",
        "unknown_after",
    }
    told = findings["response_ids"].evidence
    assert told == "ServiceFailedError: The backend broke. (HTTP 500, InternalError)"
    assert held_by(server) == (0, 0, 0)


def test_one_probe_that_fails_does_not_keep_the_others_from_finding(server):
    def script(context, request):
        if request.get("store") is False:
            return Fail("No such thing.", "InternalError", 500)
        return Model(server)(context, request)

    findings = found(server, script=script, patience=SHORT)
    unsettled = {one.switch for one in findings.values() if one.found is None}
    assert unsettled == {"store_false", "final_output", *UNSETTLEABLE}


def test_the_key_is_in_no_finding_whatever_the_service_echoes(server):
    echo = Fail(f"The key {KEY} broke it.", "InternalError", 500)
    findings = found(server, script=always(echo), key=KEY, patience=SHORT)
    assert "[api key]" in findings["response_ids"].evidence
    assert "[api key]" in findings["failed_turn"].evidence
    assert KEY not in str(findings)


@pytest.mark.parametrize("forced", [({"type": "function", "name": "take_note"},), ("auto",)])
def test_a_model_that_cannot_be_forced_in_one_way_is_asked_in_another(server, forced):
    findings = found(server, *NEED_CALLS, script=Model(server, forced=forced))
    assert all(one.held for one in findings.values())


def test_what_needs_a_call_stays_unsettled_with_a_model_that_calls_nothing(server):
    findings = found(server, *NEED_CALLS, script=always("I would rather not."))
    assert {one.found for one in findings.values()} == {None}
    assert "did not call the tool" in findings["lone_output"].evidence
    assert len([one for one in server.requests if one.path == "/responses"]) == 3


def test_a_model_that_thinks_shows_the_same(no_waiting):
    findings = found(no_waiting, script=Model(no_waiting, think=True))
    unlike = {one.switch for one in findings.values() if not one.held}
    assert unlike == {"failed_turn", *UNSETTLEABLE}


def test_turns_too_short_to_meet_do_not_say_what_happens_when_they_meet():
    with OfflineServer(concurrent_turns="serialized") as server:
        (finding,) = found(server, "concurrent_turns", script=always("yes")).values()
    assert finding.found is None
    assert "not sure that they met" in finding.evidence


def test_a_turn_that_does_not_fail_settles_nothing_about_those_that_do(server):
    (finding,) = found(server, "failed_turn", script=always("A picture of a cat.")).values()
    assert finding.found is None
    assert "no turn failed" in finding.evidence


def test_what_cannot_be_deleted_is_named(tmp_path):
    path = tmp_path / "state.db"
    with OfflineServer(path=path) as server:
        with sqlite3.connect(path) as state:
            state.execute(
                "create trigger kept before delete on items begin select raise(abort, 'kept'); end"
            )
        state.close()
        (finding,) = found(server, "system_role").values()
    assert finding.held
    assert "conv_" in finding.evidence
    assert "could not be deleted" in finding.evidence


@pytest.mark.parametrize(("seen", "held"), [("a", True), ("b", False), (None, None)])
def test_a_finding_says_whether_the_assumption_held(seen, held):
    assert Finding("switch", "a", seen, "").held is held


def test_evidence_is_one_short_line_without_ids(no_waiting):
    for finding in found(no_waiting).values():
        assert 0 < len(finding.evidence) < 500
        assert "\n" not in finding.evidence
        assert not {part for part in finding.evidence.split() if sum(map(str.isdigit, part)) > 8}

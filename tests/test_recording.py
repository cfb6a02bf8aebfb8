"""`make record`: one command records the cassettes and settles what is assumed."""

import pytest
from click.testing import CliRunner
from conftest import KEY, main_loop
from test_cassettes import STANDARD, exchanges
from test_examples import left_on

from qwen_conv.offline import OfflineServer, Switches
from recording.__main__ import main
from recording.scenarios import SCENARIOS, script
from recording.tape import FOLDER, HEADERS, PINNED, provenance_of, replaying
from recording.ways import Way

NAMES = [scenario.__name__ for scenario in SCENARIOS]


def run(*arguments, **environment):
    return CliRunner(env={"DASHSCOPE_API_KEY": None, **environment}).invoke(main, arguments)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What one run against a server prints, and the folder that it wrote."""
    into = tmp_path_factory.mktemp("cassettes")
    with OfflineServer(script, conversation_echo="no") as server, main_loop():
        told = run(
            *["--into", str(into), "--patience", "0.2"],
            DASHSCOPE_API_KEY=KEY,
            DASHSCOPE_BASE_URL=server.base_url,
        )
        assert told.exit_code == 0, told.output
        yield told.output, into, server


def test_every_session_is_recorded_and_says_where_it_is_from(recorded):
    told, into, server = recorded
    assert [line for line in told.splitlines() if line.startswith("recorded")] == [
        f"recorded  {name}" for name in NAMES
    ]
    for name in NAMES:
        found = provenance_of(into / "live" / f"{name}.yaml")
        assert found.kind == "live"
        assert server.base_url in found.source
    page = (into / "README.md").read_text()
    assert all(f"| `live/{name}.yaml` | live |" in page for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_was_recorded_is_replayed(recorded, name, asynchronous):
    _, into, _ = recorded
    scenario = dict(zip(NAMES, SCENARIOS, strict=True))[name]
    with replaying(into / "live" / f"{name}.yaml") as cassette:
        Way("any", PINNED, "qwen3.6-plus", asynchronous=asynchronous).play(scenario)
    assert cassette.all_played


def test_nothing_of_it_holds_the_key_or_the_address(recorded):
    told, into, server = recorded
    assert KEY not in told
    for path in (into / "live").iterdir():
        cassette = path.read_text().partition("\n")[2]
        assert KEY not in cassette
        assert server.base_url not in cassette
        assert all(one["request"]["headers"].keys() <= HEADERS for one in exchanges(path))


def test_it_prints_of_every_assumption_whether_it_held(recorded):
    told, *_ = recorded
    rows = [row.split() for row in told.splitlines() if ": assumed " in row]
    assert [row[-1] for row in (row[: row.index("assumed")] for row in rows)] == [
        f"{name}:" for name in Switches.__dataclass_fields__
    ]
    verdicts = {row[row.index("assumed") - 1]: row[0] for row in rows}
    assert verdicts["conversation_echo:"] == "NOT"
    assert verdicts["expired_items:"] == "unsettled"
    assert verdicts["response_ids:"] == "held"


def test_it_leaves_nothing_on_the_server(recorded):
    *_, server = recorded
    assert left_on(server) == []


def test_without_a_key_it_says_what_to_set(tmp_path):
    told = run("--into", str(tmp_path))
    assert told.exit_code == 1
    assert "DASHSCOPE_API_KEY" in told.output
    assert not [*tmp_path.iterdir()]


def test_what_another_service_answers_does_not_go_where_qwens_answers_go():
    with OfflineServer() as server:
        for into in ((), ("--into", f"{FOLDER}/../cassettes")):
            told = run(*into, DASHSCOPE_API_KEY=KEY, DASHSCOPE_BASE_URL=server.base_url)
        assert server.requests == []
    assert told.exit_code == 1
    assert "cassettes/live is for what Qwen answered" in told.output
    assert not (FOLDER / "live").exists()


def test_a_session_that_fails_leaves_no_cassette_and_the_others_are_recorded(tmp_path):
    def never_calls(_context, _request):
        return "I will not."

    with OfflineServer(never_calls) as server:
        told = run(
            *["--into", str(tmp_path), "--patience", "0.2"],
            DASHSCOPE_API_KEY=KEY,
            DASHSCOPE_BASE_URL=server.base_url,
        )
    failing = {"tool_round", "agent_thread", "llamaindex_tools"}
    assert all(f"failed    {name}" in told.output for name in failing)
    assert "recorded  two_processes" in told.output
    assert {path.stem for path in (tmp_path / "live").iterdir()} == {*NAMES} - failing


def test_a_run_that_fails_leaves_what_was_recorded_before(recorded):
    _, into, server = recorded
    before = {path: path.read_text() for path in (into / "live").iterdir()}
    told = run(
        *["--into", str(into), "--patience", "0.2"],
        DASHSCOPE_API_KEY=KEY,
        DASHSCOPE_BASE_URL=server.base_url.replace("compatible-mode", "nowhere"),
    )
    assert told.output.count("failed    ") == len(NAMES)
    assert {path: path.read_text() for path in (into / "live").iterdir()} == before


def test_the_others_are_recorded_without_a_key(tmp_path):
    told = run("--into", str(tmp_path), "offline")
    assert told.exit_code == 0
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*.yaml")}
    there = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*.yaml")}
    others = {name for name in there if not name.startswith("live/")}
    assert names == others - {f"offline/{STANDARD}.yaml"}

"""The command line."""

import os
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner

from qwen_conv import QwenConversations, __version__, flows
from qwen_conv.cli import main
from qwen_conv.offline import OfflineServer, Switches
from qwen_conv.offline.switches import table


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="qwen-conv")
    assert command.load() is main


def test_it_tells_its_version_and_its_switches():
    assert __version__ in CliRunner().invoke(main, ["--version"]).output
    assert CliRunner().invoke(main, ["switches"]).output == table()


def refused(*options):
    """What `serve` says of options that it cannot serve with: without a traceback."""
    told = CliRunner().invoke(main, ["serve", *map(str, options)])
    assert told.exit_code in {1, 2}
    assert isinstance(told.exception, SystemExit)
    assert "Error: " in told.output
    return " ".join(told.output.split())


@pytest.mark.parametrize("wrong", ["stored_items=x", "stored_items"])
def test_a_wrong_switch_is_refused_with_what_it_can_be(wrong):
    told = refused("--port", 0, "--switch", wrong)
    assert "The switch stored_items is" in told
    assert "'all' or 'messages'" in told


@pytest.mark.parametrize("wrong", ["foo=bar", "foo", "__class__=x"])
def test_an_unknown_switch_is_named_and_the_known_ones_listed(wrong):
    told = refused("--port", 0, "--switch", wrong)
    assert f"There is no switch '{wrong.split('=')[0]}'" in told
    assert all(one.name in told for one in fields(Switches))


def test_a_port_in_use_is_told():
    with OfflineServer() as server:
        port = server.base_url.split(":")[2].split("/")[0]
        assert f"127.0.0.1:{port}: Address already in use" in refused("--port", port)


@pytest.mark.parametrize("options", [("--port", 65_536), ("--port", 0, "--host", "::1%nowhere")])
def test_an_address_that_is_none_is_told(options):
    refused(*options)


@pytest.mark.parametrize("state", ["", "no/such/folder/state.db", "text.txt"])
def test_a_state_that_cannot_be_used_is_told(tmp_path, state):
    (tmp_path / "text.txt").write_text("This is a text, and no database of SQLite at all.")
    assert str(tmp_path / state) in refused("--port", 0, "--state", tmp_path / state)


def test_the_help_says_how_a_client_finds_the_server():
    told = " ".join(CliRunner().invoke(main, ["serve", "--help"]).output.split())
    assert "on loopback by default" in told
    assert "DASHSCOPE_BASE_URL=<printed URL>" in told
    assert "any key" in told


def test_it_serves_until_it_is_stopped(tmp_path):
    command = [Path(sys.executable).with_name("qwen-conv"), "serve", "--port", "0"]
    command += ["--state", str(tmp_path / "state.db"), "--switch", "response_ids=resp"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as served:
        address = served.stdout.readline().split()[1]
        hub = QwenConversations(api_key="any", base_url=address)
        assert hub.run(flows.create).id.startswith("conv_")
        hub.close()
        served.terminate()
        assert served.wait(10) in {0, -15}

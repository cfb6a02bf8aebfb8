"""The command line."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner

from qwen_conv import QwenConversations, __version__, flows
from qwen_conv.cli import main
from qwen_conv.offline.switches import table


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="qwen-conv")
    assert command.load() is main


def test_it_tells_its_version_and_its_switches():
    assert __version__ in CliRunner().invoke(main, ["--version"]).output
    assert CliRunner().invoke(main, ["switches"]).output == table()


@pytest.mark.parametrize("wrong", ["no_such=x", "stored_items=x", "stored_items"])
def test_a_wrong_switch_is_refused_with_the_reason(wrong):
    told = CliRunner().invoke(main, ["serve", "--port", "0", "--switch", wrong])
    assert told.exit_code == 2
    assert wrong.split("=")[0] in told.output


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

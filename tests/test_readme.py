"""What README shows works, in the order in which it stands there."""

import re
import warnings
from pathlib import Path

import pytest
from langchain_core._api import LangChainDeprecationWarning

from qwen_conv.offline import OfflineServer

README = Path(__file__).parent.parent / "README.md"


def test_the_examples_of_the_readme_run_one_after_another(
    server: OfflineServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DASHSCOPE_API_KEY", "any")
    monkeypatch.setenv("DASHSCOPE_BASE_URL", server.base_url)
    examples = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)
        for example in examples:
            exec(compile(example, README.name, "exec"), names)  # noqa: S102 - our own README
    assert capsys.readouterr().out.splitlines() == [
        "Alice is 20 years old, and her hobbies are music and chess.",
        "Erin is 40 years old.",
        "What is my name?",
        "My name is Carol.",
        "Dave is 30 years old.",
        "user Alice's best friend is Bob.",
        "user Who is her best friend?",
        "assistant Alice's best friend is Bob.",
    ]
    assert len(examples) == 8


def test_its_first_example_sends_each_message_once(
    server: OfflineServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DASHSCOPE_API_KEY", "any")
    monkeypatch.setenv("DASHSCOPE_BASE_URL", server.base_url)
    first = re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert first is not None
    exec(compile(first[1], README.name, "exec"), {})  # noqa: S102 - our own README
    *_, turn = server.requests
    assert turn.body["input"] == "How old is Alice?"

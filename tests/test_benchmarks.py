"""The benchmark runs, and reports all that it is to measure; no time is judged here."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LANGCHAIN = [
    "requests, 2 turns",
    "bytes up, bodies, 2 turns",
    "bytes up, with headers, 2 turns",
    "requests, an agent's 2 turns, 1 with a tool",
    "bytes up, bodies, an agent's 2 turns, 1 with a tool",
    "bytes up, with headers, an agent's 2 turns, 1 with a tool",
    "bytes up, bodies, an agent's 2 turns, 1 with a tool, with a system prompt",
    "items kept, an agent's 2 turns, 1 with a tool",
    "CPU per turn, 2 turns",
    "CPU per delta, 300 characters in 54 deltas",
    "CPU per delta, 2,000 characters in 400 deltas",
    "time to first chunk",
    "import time",
    "modules of openai that the import loads",
    "time from import to first answer",
    "reading 30 items, CPU",
    "reading 30 items as messages, CPU",
    "3 conversations at once, CPU",
    "3 conversations at once, time",
]

LLAMAINDEX = [
    "requests, 2 turns, Memory",
    "bytes up, bodies, 2 turns, Memory",
    "bytes up, with headers, 2 turns, Memory",
    "items kept, 2 turns, Memory",
    "requests, 2 turns, ChatMemoryBuffer",
    "bytes up, bodies, 2 turns, ChatMemoryBuffer",
    "bytes up, with headers, 2 turns, ChatMemoryBuffer",
    "items kept, 2 turns, ChatMemoryBuffer",
    "CPU per chat, 2 turns",
    "CPU per achat, 2 turns",
    "CPU per stream_chat delta, 2 turns of 54 deltas",
    "CPU per stream_chat delta, 2 turns of 400 deltas",
    "CPU per astream_chat delta, 2 turns of 54 deltas",
    "CPU per astream_chat delta, 2 turns of 400 deltas",
    "CPU per engine.chat, 2 turns, Memory",
    "CPU per engine.chat, 2 turns, ChatMemoryBuffer",
    "import time",
    "modules of openai that the import loads",
    "time from import to first answer",
]


def report_of(tmp_path, *arguments):
    """The report, and its lines as cells."""
    output = tmp_path / "performance.md"
    root = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--output", output, *arguments],
        cwd=root,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    report = output.read_text("utf-8")
    assert not any(secret in report for secret in (os.uname().nodename, str(root), sys.prefix))
    return report, [
        line.removeprefix("| ").removesuffix(" |").split(" | ") for line in report.splitlines()
    ]


def told(lines, row):
    """What the report tells of a row: its ratios, and its figures."""
    ratios, figures = [cells for title, *cells in lines if title == row]
    assert any(cell[:1].isdigit() for cell in ratios[:-1] + figures)
    return ratios, figures


def test_the_half_of_langchain_runs_and_reports_every_row(tmp_path):
    _, lines = report_of(tmp_path)
    for row in LANGCHAIN:
        told(lines, row)
    _, figures = told(lines, "requests, 2 turns")
    assert figures == ["", "3", "3", "3", "3", "2", "-"]


def test_the_half_of_llamaindex_runs_and_reports_every_row_and_every_engine(tmp_path):
    """Where the stock class cannot be installed, the report says so, and has no column for it."""
    report, lines = report_of(tmp_path, "--llamaindex")
    for row in LLAMAINDEX:
        told(lines, row)
    is_there = stock_is_installed()
    assert ("**stock class**" in report) == is_there
    assert ("llama-index-llms-openai is not installed here" in report) != is_there
    ratios, figures = told(lines, "requests, 2 turns, Memory")
    assert ratios[-1] == "3: met"
    assert figures == (["", "3", "2", "-"] if is_there else ["", "3", "-"])
    ratios, _ = told(lines, "items kept, 2 turns, ChatMemoryBuffer")
    assert ratios[-1] == "4: met"
    ratios, _ = told(lines, "bytes up, bodies, 2 turns, Memory")
    assert ratios[-1] == f"0.5 of stock class: {'met' if is_there else 'not compared'}"
    counted = [cells for cells in lines if len(cells) == 11 and "ChatMemoryBuffer" in cells[2]]
    assert len({name for name, *_ in counted}) == 9
    simple = [cells for name, *cells in counted if name == "SimpleChatEngine"]
    everything = ["chat, stream_chat, achat, astream_chat", "Memory, ChatMemoryBuffer"]
    assert simple == [[*everything, "1.00", "1.50", "2", "0", "1", "0", "0", "0"]]


def stock_is_installed():
    try:
        version("llama-index-llms-openai")
    except PackageNotFoundError:
        return False
    return True

"""What a turn costs the client: CPU per `invoke`, CPU per streamed delta, and import time.

Both sides run in this process, in turns, against the offline server in another one. `make bench`
runs it. Figures are medians, with the spread from the first to the third quartile.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

import openai
from langchain_core.messages import BaseMessage, HumanMessage

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations, flows

MODEL = "qwen3.6-plus"
QUESTION = ("What should I know before I travel there in the summer with two children? " * 2)[:117]
ANSWER = (
    "The ferry leaves every hour from the old harbour, and the island has three beaches. " * 4
)[:300]
DELTAS = 400
SERVER = f"""
import signal, sys
from qwen_conv.offline import OfflineServer
long_answer = "word " * {DELTAS}
def script(context, request):
    return long_answer if request.get("stream") else {ANSWER!r}
server = OfflineServer(script, unanswered_call="accepted")
print(server.base_url, flush=True)
server.serve()
"""


def cpu_of(task: Callable[[], object]) -> float:
    """CPU seconds of this process for one run of the task."""
    start = time.process_time()
    task()
    return time.process_time() - start


def compare(rounds: int, tasks: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Runs the tasks in turns, so that whatever else the machine does hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(rounds):
        for name, task in tasks.items():
            found[name].append(cpu_of(task))
    return found


def show(title: str, unit: float, found: dict[str, list[float]]) -> None:
    """Prints a table: medians, quartiles, and the ratio to the first row."""
    print(f"\n{title}")
    first = statistics.median(next(iter(found.values())))
    for name, values in found.items():
        low, middle, high = (value * unit for value in statistics.quantiles(values, n=4))
        ratio = statistics.median(values) / first
        print(f"  {name:44} {middle:9.3f}  ({low:.3f} to {high:.3f})  x{ratio:.2f}")


def turns(base_url: str, count: int, rounds: int) -> None:
    """CPU per turn, the caller of ours passing the whole list each time."""
    hub = QwenConversations(api_key="any", base_url=base_url)
    client = openai.OpenAI(api_key="any", base_url=base_url, max_retries=0)
    model = ChatQwenConv(model=MODEL, conversations=hub)

    def typed() -> None:
        conversation = client.conversations.create().id
        for _ in range(count):
            client.responses.create(model=MODEL, conversation=conversation, input=QUESTION)

    def raw() -> None:
        conversation = client.conversations.create().id
        body = {"model": MODEL, "conversation": conversation, "input": QUESTION}
        for _ in range(count):
            client.post("/responses", cast_to=object, body=body)

    def ours() -> None:
        chat = model.with_conversation(hub.run(flows.create).id)
        messages: list[BaseMessage] = []
        for _ in range(count):
            messages.append(HumanMessage(QUESTION))
            messages.append(chat.invoke(messages))

    found = compare(
        rounds,
        {
            "client.responses.create (typed, new text only)": typed,
            "client.post (dicts, new text only)": raw,
            "ChatQwenConv.invoke (whole list passed)": ours,
        },
    )
    show(f"CPU per turn in ms, {count} turns", 1000 / count, found)


def deltas(base_url: str, rounds: int) -> None:
    """CPU per streamed delta."""
    hub = QwenConversations(api_key="any", base_url=base_url)
    client = openai.OpenAI(api_key="any", base_url=base_url, max_retries=0)
    chat = ChatQwenConv(model=MODEL, conversations=hub)

    def typed() -> None:
        stream = client.responses.create(model=MODEL, input=QUESTION, store=False, stream=True)
        for _ in stream:
            pass

    def ours() -> None:
        for _ in chat.stream(QUESTION):
            pass

    found = compare(
        rounds, {"for event in responses.create(stream=True)": typed, "ChatQwenConv.stream": ours}
    )
    show(f"CPU per delta in µs, {DELTAS} deltas", 1e6 / DELTAS, found)


def imports(rounds: int) -> None:
    """Wall time of an import in a fresh interpreter, less what the bare interpreter takes."""
    names = ["langchain_core.language_models.chat_models", "langchain_qwen_conv"]
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            code = f"from time import perf_counter as t; s = t(); import {name}; print(t() - s)"
            told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            found[name].append(float(told.stdout))
    show("Import in ms", 1000, found)


def main() -> None:
    """Runs all of it."""
    names = ("openai", "langchain-core", "pydantic")
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None  # noqa: S101 - it was asked for
            base_url = server.stdout.readline().strip()
            turns(base_url, 10, rounds=40)
            turns(base_url, 100, rounds=8)
            deltas(base_url, rounds=30)
        finally:
            server.terminate()
    imports(rounds=15)


if __name__ == "__main__":
    main()

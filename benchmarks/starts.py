"""What a fresh interpreter waits for: imports, and the first turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.names import BY_HAND, FRAMEWORK, OURS, SDK
from benchmarks.server import ROOT
from benchmarks.sides import KEY
from benchmarks.workload import MODEL, QUESTION


class Start(NamedTuple):
    """What a fresh interpreter tells.

    Attributes:
        imported: Seconds that the import took.
        openai_modules: How many modules of the openai SDK it loaded.
        answered: Seconds from the beginning of the import until the first turn was answered.
    """

    imported: float
    openai_modules: float
    answered: float


_CODE = """
import sys
from time import perf_counter
MODEL, QUESTION, service = {model!r}, {question!r}, dict(base_url={base_url!r}, api_key={key!r})
start = perf_counter()
{imports}
imported = perf_counter() - start
openai_modules = sum(name.partition(".")[0] == "openai" for name in sys.modules)
{first_turn}
print(imported, openai_modules, perf_counter() - start)
"""

STARTS: Mapping[str, tuple[str, str]] = {
    OURS: (
        "from langchain_qwen_conv import ChatQwenConv",
        'ChatQwenConv(model=MODEL, session_id="first", **service).invoke(QUESTION)',
    ),
    SDK: (
        "from openai import OpenAI",
        (
            "client = OpenAI(**service)\n"
            "conversation = client.conversations.create().id\n"
            "client.responses.create(model=MODEL, conversation=conversation, input=QUESTION)"
        ),
    ),
    BY_HAND: (
        "from langchain_openai import ChatOpenAI",
        (
            "chat = ChatOpenAI(model=MODEL, use_responses_api=True, **service)\n"
            "conversation = chat.root_client.conversations.create().id\n"
            "chat.invoke(QUESTION, conversation=conversation)"
        ),
    ),
    FRAMEWORK: (
        "from langchain_core.language_models.chat_models import BaseChatModel",
        "",
    ),
}
"""By side: what it imports, and how it creates a conversation and takes a turn."""


def start(side: str, base_url: str) -> Start:
    """Starts an interpreter for that side."""
    imports, first_turn = STARTS[side]
    code = _CODE.format(
        model=MODEL,
        question=QUESTION,
        base_url=base_url,
        key=KEY,
        imports=imports,
        first_turn=first_turn,
    )
    # What is installed is compiled. Where nothing may be written, a checkout would be compiled by
    # every import anew.
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    told = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    return Start(*map(float, told.stdout.split()))

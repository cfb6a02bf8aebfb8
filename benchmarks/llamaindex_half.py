"""The half of the benchmark that is of LlamaIndex."""

from __future__ import annotations

from benchmarks.half import Half
from benchmarks.llamaindex_measures import MEASURES, PROMPT, LlamaIndexWorkload
from benchmarks.llamaindex_requests import QUESTIONS, requests
from benchmarks.llamaindex_sides import (
    LEGEND,
    ROOM,
    STOCK_DISTRIBUTION,
    stock_is_installed,
)
from benchmarks.names import FRAMEWORK, OURS, STOCK

IS_WHOLE = stock_is_installed()
"""Whether there is a stock class to compare with."""

NO_STOCK = f"Stock class: {STOCK_DISTRIBUTION} is not installed here; it does without openai 3."

HALF = Half(
    title="Performance with LlamaIndex",
    output="performance-llamaindex.md",
    distributions=(
        "qwen-conv",
        "openai",
        "llama-index-core",
        STOCK_DISTRIBUTION,
        "pydantic",
    ),
    legend=LEGEND,
    absent=(
        "Framework alone: it takes no turns.",
        *(() if IS_WHOLE else (NO_STOCK,)),
    ),
    streams="The offline server makes a delta of each word.",
    more=f"""\
Dialogs have a system prompt of {len(PROMPT)} characters. Memories have room for {ROOM:,} tokens, so
that none leaves a message out. A call of the LLM (`chat` and its like) is passed what a
`ChatMemoryBuffer` returns, as an engine passes it, and its CPU is that of the call alone. What the
memory takes is in the CPU of `engine.chat`, which is `SimpleChatEngine`'s with all that it does. It
is checked that every turn of {OURS} was one of the conversation.""",
    full=LlamaIndexWorkload(
        dialogs={10: 20, 100: 5},
        turns=10,
        chat_rounds=20,
        stream_rounds=10,
        questions=len(QUESTIONS),
        start_sides=(OURS, STOCK, FRAMEWORK) if IS_WHOLE else (OURS, FRAMEWORK),
        start_rounds=5,
        warm_up=True,
    ),
    quick=LlamaIndexWorkload(
        dialogs={1: 1, 2: 1},
        turns=2,
        chat_rounds=1,
        stream_rounds=1,
        questions=2,
        start_sides=(OURS, FRAMEWORK),
        start_rounds=1,
        warm_up=False,
    ),
    measures=MEASURES,
    tables=(requests,),
)

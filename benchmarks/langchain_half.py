"""The half of the benchmark that is of LangChain."""

from __future__ import annotations

from benchmarks.half import Half
from benchmarks.langchain_measures import MEASURES, PATIENCE_AT_ONCE, LangChainWorkload
from benchmarks.langchain_sides import LEGEND
from benchmarks.names import BY_HAND, FRAMEWORK, OURS, SDK
from benchmarks.workload import QUESTION

HALF = Half(
    title="Performance",
    output="performance.md",
    distributions=(
        "qwen-conv",
        "openai",
        "langchain",
        "langchain-core",
        "langchain-openai",
        "langgraph",
        "pydantic",
    ),
    legend=LEGEND,
    absent=("Framework alone: it takes no turns.",),
    streams="""\
A stream is a conversation's first turn, and the offline server makes a delta of each word. The time
to the first chunk ends with the first text that the caller sees, and includes what the server
takes.""",
    more=f"""\
An agent is `create_agent` with a tool and `InMemorySaver`; {OURS} is in `QwenConvMiddleware`. The
model thinks before each answer and each call, so that each request leaves three items: what was
sent, the thought, and the answer or the call. The system prompt has {len(QUESTION)} characters.

Conversations at once are given {PATIENCE_AT_ONCE:.0f} seconds to connect, on all sides: by default
the openai SDK gives up after 5, in which a busy machine does not make so many connections.""",
    full=LangChainWorkload(
        dialogs={10: 20, 100: 10},
        agent_turns=10,
        stream_rounds=10,
        first_chunk_rounds=30,
        start_sides=(OURS, SDK, BY_HAND, FRAMEWORK),
        start_rounds=5,
        items=10_000,
        reading_rounds=5,
        crowd=1_000,
        crowd_rounds=3,
        warm_up=True,
    ),
    quick=LangChainWorkload(
        dialogs={1: 1, 2: 1},
        agent_turns=2,
        stream_rounds=1,
        first_chunk_rounds=1,
        start_sides=(OURS, FRAMEWORK),
        start_rounds=1,
        items=30,
        reading_rounds=1,
        crowd=3,
        crowd_rounds=1,
        warm_up=False,
    ),
    measures=MEASURES,
)

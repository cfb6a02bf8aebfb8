"""The offline server in a process of its own, so that its CPU is not the client's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.workload import ANSWER, STREAMS

ROOT = Path(__file__).parent.parent


@contextmanager
def started() -> Iterator[str]:
    """Starts the server, and stops it in the end; its base URL."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            base_url = process.stdout.readline().strip() if process.stdout else ""
            if not base_url:
                raise RuntimeError("The offline server did not start.")
            yield base_url
        finally:
            process.terminate()


def serve() -> None:
    """Prints the base URL and serves until it is told to stop."""
    # The benchmark imports this module too, and has no use for a server.
    from qwen_conv.offline import OfflineServer
    from qwen_conv.offline.responder import text_of

    def answer(context: Sequence[Mapping[str, Any]], _request: Mapping[str, Any]) -> str:
        server.requests.clear()  # whole lists would fill the memory
        return STREAMS.get(text_of(context[-1]), ANSWER)

    server = OfflineServer(answer)
    print(server.base_url, flush=True)
    server.serve()


if __name__ == "__main__":
    serve()

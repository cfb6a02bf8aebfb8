"""`cassettes/README.md`: where each cassette is from, as their first lines say."""

from __future__ import annotations

from pathlib import Path

from recording.tape import PINNED, PROVENANCE, provenance_of

HEAD = f"""\
# Cassettes

Exchanges over HTTP that the tests replay, with the network blocked. What is sent has to match by
method, path, query and parsed JSON body, and each answer is given once. One file serves threads and
tasks, and openai 2 and 3. Wherever it was recorded, an exchange is kept under the base URL
`{PINNED}`, without headers that
could hold a key; the header `{PROVENANCE}` says who gave the answer.

- **documented**: the examples of the service's own pages. The request is what the page's code
  sends. An answer that the page shows is transcribed; one that it does not show was given by the
  offline server, and is labelled *offline*.
- **offline**: recorded from the offline server (`qwen_conv.offline`), over HTTP on loopback.
- **live**: recorded from Qwen. {{live}}

`make record` records the scenarios from Qwen into `live/`, where `DASHSCOPE_API_KEY` is set, and
prints which of the [assumptions](../docs/assumptions.md) held. `make record-offline` records the
others, and `make record-standard` the one of LangChain's own tests. All write this page.

| cassette | provenance | source |
|---|---|---|
"""
NONE_YET = "None yet: no key was at hand."
SOME = "Their dates and versions are in the table."


def page(folder: Path) -> str:
    """The page, for the cassettes in a folder.

    Raises:
        ValueError: A cassette does not say where it is from.
    """
    paths = sorted(folder.glob("*/*.yaml"))
    rows = []
    for path in paths:
        found = provenance_of(path)
        if found is None or found.kind != path.parent.name:
            raise ValueError(f"{path.name} does not say that it is {path.parent.name}.")
        rows.append(
            f"| `{path.relative_to(folder).as_posix()}` | {found.kind} | {found.source} |\n"
        )
    live = SOME if any(path.parent.name == "live" for path in paths) else NONE_YET
    return HEAD.format(live=live) + "".join(rows)


def write(folder: Path) -> None:
    """Writes the page of a folder."""
    (folder / "README.md").write_text(page(folder), encoding="utf-8")

"""The command line: `qwen-conv`. Needs `qwen-conv[cli]`."""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from pathlib import Path

try:
    import click

    from qwen_conv.offline import OfflineServer, switches
except ImportError as missing:  # pragma: no cover - said by the message
    raise SystemExit(f"{missing.name} is missing: pip install 'qwen-conv[cli]'") from None

from qwen_conv import QwenConversations
from qwen_conv._version import __version__
from qwen_conv.erasing import erase
from qwen_conv.errors import QwenConvError
from qwen_conv.registry import PROCESS_REGISTRY, Registry


def _switches(
    _context: click.Context, _option: click.Parameter, changes: tuple[str, ...]
) -> switches.Switches:
    known = [one.name for one in fields(switches.Switches)]
    told: dict[str, str] = {}
    for change in changes:
        name, _, told[name] = change.partition("=")
        if name not in known:
            raise click.BadParameter(f"There is no switch {name!r}; there are {', '.join(known)}.")
    try:
        return switches.Switches(**told)  # type: ignore[arg-type]  # it checks them itself
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


@click.group()
@click.version_option(__version__, prog_name="qwen-conv")
def main() -> None:
    """Qwen Cloud's server-side conversations."""


@main.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. On any but a loopback address, whoever reaches it can use it.",
)
@click.option(
    "--port",
    default=8642,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port; 0 takes a free one.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="SQLite file to keep the state in; by default it is kept in memory.",
)
@click.option(
    "--switch",
    "chosen",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_switches,
    help="How to behave where the documents are silent; `qwen-conv switches` lists them.",
)
def serve(host: str, port: int, state: Path | None, chosen: switches.Switches) -> None:
    """Serve the documented contract, on loopback by default. It is no language model.

    To use it, start your program with DASHSCOPE_BASE_URL=<printed URL> and any key in
    DASHSCOPE_API_KEY.
    """
    try:
        server = OfflineServer(host=host, port=port, path=state, switches=chosen)
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose with --host and --port."
        ) from None
    except sqlite3.Error as error:
        raise click.BadParameter(
            f"{state} cannot be used: {error}.", param_hint="--state"
        ) from None
    click.echo(f"Serving {server.base_url} (any key); stop with Ctrl+C")
    server.serve()


@main.command("switches")
def list_switches() -> None:
    """Print what the documents leave open, as a table in Markdown."""
    click.echo(switches.table(), nl=False)


@main.command("erase")
@click.option("--session", metavar="KEY", help="The session to erase; needs --registry.")
@click.option("--conversation", metavar="ID", help="The conversation to erase, instead.")
@click.option("--registry", "url", metavar="URL", help="The database of a SqlRegistry.")
@click.option("--namespace", default="default", show_default=True, help="That of the session.")
def erase_command(
    session: str | None, conversation: str | None, url: str | None, namespace: str
) -> None:
    """Delete a session's conversations with their items and stored responses.

    The service is told by DASHSCOPE_API_KEY and DASHSCOPE_BASE_URL. What could not be deleted is
    printed, and the exit status is 1 then.
    """
    if session is not None and url is None:
        raise click.UsageError("A session is found in its registry: pass --registry too.")
    try:
        hub = QwenConversations(registry=_registry(url), namespace=namespace)
        erased = hub.run(erase, session=session, conversation_id=conversation)
        hub.close()
    except QwenConvError as error:
        raise click.ClickException(str(error)) from None
    click.echo(erased)
    if erased.left:
        raise SystemExit(1)


def _registry(url: str | None) -> Registry:
    if url is None:
        return PROCESS_REGISTRY
    try:
        from qwen_conv.registry import SqlRegistry
    except ImportError as missing:
        raise click.ClickException(str(missing)) from None
    return SqlRegistry(url)

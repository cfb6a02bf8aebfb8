"""The command line: `qwen-conv`. Needs `qwen-conv[cli]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    import click

    from qwen_conv.offline import OfflineServer, switches
except ImportError as missing:  # pragma: no cover - said by the message
    raise SystemExit(f"{missing.name} is missing: pip install 'qwen-conv[cli]'") from None

from qwen_conv._version import __version__


def _switches(
    _context: click.Context, _option: click.Parameter, changes: tuple[str, ...]
) -> switches.Switches:
    told: dict[str, Any] = {}
    for change in changes:
        name, _, told[name] = change.partition("=")
    try:
        return switches.Switches(**told)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(f"{error}; `qwen-conv switches` lists them") from None


@click.group()
@click.version_option(__version__, prog_name="qwen-conv")
def main() -> None:
    """Qwen Cloud's server-side conversations."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8642, show_default=True, help="Port; 0 takes a free one.")
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
    """Serve the documented contract on loopback. It is no language model."""
    server = OfflineServer(host=host, port=port, path=state, switches=chosen)
    click.echo(f"Serving {server.base_url} (any key); stop with Ctrl+C")
    server.serve()


@main.command("switches")
def list_switches() -> None:
    """Print what the documents leave open, as a table in Markdown."""
    click.echo(switches.table(), nl=False)

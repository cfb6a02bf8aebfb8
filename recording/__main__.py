"""Records the cassettes: `python -m recording` from the service, with a key; `... offline` without.

From the service they go into `cassettes/live/`, and what was assumed about it is settled, as far as
one run can.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import click

from qwen_conv import QwenConversations
from qwen_conv.errors import QwenConvError
from qwen_conv.offline import OfflineServer
from recording import documented, provenance
from recording.findings import PATIENCE, Finding, settle
from recording.scenarios import SCENARIOS, script
from recording.tape import FOLDER, Provenance, recording
from recording.ways import Way

MODEL = "qwen3.6-plus"


@click.group(invoke_without_command=True)
@click.option("--model", default=MODEL, show_default=True, help="The model that answers.")
@click.option("--into", type=click.Path(path_type=Path), default=FOLDER, help="The folder.")
@click.option(
    "--patience", default=PATIENCE, show_default=True, help="Seconds to wait for what shows late."
)
@click.pass_context
def main(context: click.Context, model: str, into: Path, patience: float) -> None:
    """Records every scenario from the service that DASHSCOPE_API_KEY is for."""
    context.obj = into
    if context.invoked_subcommand is None:
        live(into, model, patience)


@main.command()
@click.pass_obj
def offline(into: Path) -> None:
    """Records the cassettes that need no key: from the offline server, and from the documents."""
    source = Provenance("offline", f"qwen_conv.offline {versions()}")
    for scenario in SCENARIOS:
        path = into / "offline" / f"{scenario.__name__}.yaml"
        with OfflineServer(script) as server, recording(path, [server.base_url], source):
            Way("offline", server.base_url, MODEL, asynchronous=False).play(scenario)
    documented.record(into / "documented")
    provenance.write(into)


def live(into: Path, model: str, patience: float) -> None:
    """Records from the service, and prints what it showed of the assumptions."""
    try:
        hub = QwenConversations()
    except QwenConvError as error:
        raise click.ClickException(str(error)) from None
    is_qwens = str(urlsplit(hub.base_url).hostname).endswith(".aliyuncs.com")
    if into.resolve() == FOLDER.resolve() and not is_qwens:
        raise click.ClickException(
            f"{hub.base_url} is not Qwen's: cassettes/live is for what Qwen answered. Name another "
            "folder by --into."
        )
    source = Provenance("live", f"{hub.base_url}, {model}, {versions()}")
    for scenario in SCENARIOS:
        path = into / "live" / f"{scenario.__name__}.yaml"
        way = Way(hub.secret, hub.base_url, model, asynchronous=False)
        try:
            with recording(path, [hub.base_url], source, hub.secret):
                way.play(scenario)
        except (QwenConvError, AssertionError) as error:
            click.echo(f"failed    {scenario.__name__}: {type(error).__name__}: {error}")
        else:
            click.echo(f"recorded  {scenario.__name__}")
    provenance.write(into)
    click.echo("\nWhat is assumed about the service (docs/assumptions.md):\n")
    for finding in settle(hub, model, patience=patience):
        click.echo(line(finding))


def line(finding: Finding) -> str:
    """An assumption, and what the service showed of it."""
    words = {True: "held", False: "NOT SO", None: "unsettled"}
    found = "" if finding.held else f", found {finding.found or 'nothing that says so'}"
    return (
        f"{words[finding.held]:10} {finding.switch}: assumed {finding.assumed}{found} "
        f"({finding.evidence})"
    )


def versions() -> str:
    """The day, and what was recorded with."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, qwen-conv {version('qwen-conv')}, "
        f"openai {version('openai')}, vcrpy {version('vcrpy')}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()

"""What the service shows of the project's assumptions about it: the table of switches, settled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields

from qwen_conv import QwenConversations
from qwen_conv.errors import UNREADABLE, KeyRefusedError, PermissionRefusedError, QwenConvError
from qwen_conv.offline import Switches
from recording.probes import PROBES, Seen
from recording.probes_service import Service, UnsettledError

PATIENCE = 20.0
"""Seconds to wait for what may show late: SMG 1.13 keeps a turn some seconds after its stream."""


@dataclass(frozen=True)
class Finding:
    """What the service showed of one assumption.

    Attributes:
        switch: The switch of `qwen_conv.offline` that stands for it.
        assumed: The switch's default.
        found: The value that was seen; `None` if what was seen does not say.
        evidence: What was sent and what came, or why it stays unsettled, in one line.
    """

    switch: str
    assumed: str
    found: str | None
    evidence: str

    @property
    def held(self) -> bool | None:
        """Whether the service does as assumed; `None` if that is not settled."""
        return None if self.found is None else self.found == self.assumed


def settle(
    hub: QwenConversations,
    model: str,
    *,
    patience: float = PATIENCE,
    only: Collection[str] | None = None,
) -> Iterator[Finding]:
    """Finds out which value each switch has, one after the other; leaves nothing behind.

    Args:
        hub: What the service is reached through.
        model: The model that answers; it should be able to call functions.
        patience: Seconds to wait for what may show late.
        only: The switches to ask about; by default all.

    Raises:
        KeyRefusedError: The service does not take the key.
        PermissionRefusedError: The account may not do this.
    """
    service = Service(hub, model, patience)
    for switch in fields(Switches):
        if only is None or switch.name in only:
            seen = _seen(service, PROBES[switch.name])
            yield Finding(switch.name, str(switch.default), seen.found, seen.evidence)


def _seen(service: Service, probe: Callable[[Service], Seen]) -> Seen:
    left: list[str] = []
    try:
        found, evidence = probe(service)
    except (KeyRefusedError, PermissionRefusedError):
        raise
    except UnsettledError as error:
        found, evidence = None, str(error)
    except (QwenConvError, *UNREADABLE) as error:
        found, evidence = None, service.told(error)
    finally:
        left += service.clean_up()
    return Seen(found, "; ".join([evidence, *left]))

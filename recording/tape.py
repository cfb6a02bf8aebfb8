"""How exchanges with the service are recorded as cassettes, and replayed, by vcrpy.

A cassette keeps no address but `PINNED`, no header but a few, and bodies as the JSON that they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import vcr
import yaml
from vcr.cassette import Cassette
from vcr.request import Request

from qwen_conv.encodings import RESERVED
from qwen_conv.hub import DEFAULT_REGION, REGIONS

PINNED = REGIONS[DEFAULT_REGION]
"""The base URL that every cassette is kept under, wherever it was recorded."""
FOLDER = Path(__file__).parent.parent / "cassettes"
MATCHED_ON = ("method", "path", "query", "body")
PROVENANCE = "x-provenance"
"""The header that says of each answer who gave it: "documented", "offline" or "live"."""
HEADERS = {"content-type", "retry-after", "x-request-id", PROVENANCE}
"""All that is kept of a request's and an answer's headers."""
SCRUBBED = "scrubbed"


class Provenance(NamedTuple):
    """Where a cassette is from.

    Attributes:
        kind: "documented", "offline" or "live".
        source: The page or the service, with the day and the versions.
    """

    kind: str
    source: str


@contextmanager
def recording(
    path: Path, base_urls: Sequence[str], provenance: Provenance, secret: str = ""
) -> Iterator[Cassette]:
    """Records what is sent to any of the base URLs inside, in place of what the file held.

    If that does not reach its end, the file stays as it was. `secret` is kept out of bodies, too.
    """
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        with _tape(part, "once", base_urls, provenance, secret) as cassette:
            yield cassette
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replaying(path: Path) -> Iterator[Cassette]:
    """Answers what is sent to `PINNED` inside by the cassette, each answer once, in order.

    Raises:
        vcr.errors.CannotOverwriteExistingCassetteException: The cassette does not hold a request.
    """
    with _tape(path, "none", [PINNED], None) as cassette:
        yield cassette


def provenance_of(path: Path) -> Provenance | None:
    """What a cassette says in its first line, if it does."""
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    kind, colon, source = first.removeprefix("# ").partition(": ")
    return Provenance(kind, source) if colon and first.startswith("# ") else None


def _tape(
    path: Path,
    mode: str,
    base_urls: Sequence[str],
    provenance: Provenance | None,
    secret: str = "",
) -> Any:
    # An answer of a page says so; what an example needs beside it is the offline server's.
    answered_by = provenance.kind.replace("documented", "offline") if provenance else ""

    def pinned(request: Request) -> Request:
        for base_url in base_urls:
            if request.uri.startswith(base_url):
                request.uri = PINNED + request.uri.removeprefix(base_url)
        request.headers = _kept(request.headers)
        request.body = _scrubbed(request.body, secret)
        return request

    def plain(response: dict[str, Any]) -> dict[str, Any]:
        response["headers"] = {PROVENANCE: [answered_by], **_kept(response["headers"])}
        response["body"]["string"] = _scrubbed(response["body"]["string"], secret)
        return response

    tape = vcr.VCR(
        record_mode=mode,
        match_on=MATCHED_ON,
        decode_compressed_response=True,
        before_record_request=pinned,
        before_record_response=plain,
    )
    tape.register_serializer("readable", Readable(provenance))
    return tape.use_cassette(path, serializer="readable")


def _kept(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name.lower() in HEADERS}


def _scrubbed(body: bytes | None, secret: str) -> bytes | None:
    """The body without the key, and the secret that a conversation's encodings are sealed with."""
    if body and secret:
        body = body.replace(secret.encode(), SCRUBBED.encode())
    parsed = _parsed(body)
    if isinstance(parsed, dict) and RESERVED in (parsed.get("metadata") or {}):
        parsed["metadata"][RESERVED] = SCRUBBED
        return json.dumps(parsed, ensure_ascii=False).encode()
    return body


def _parsed(body: bytes | str | None) -> Any:
    try:
        return json.loads(body or "")
    except ValueError:
        return None


class Readable:
    """Cassettes as YAML that is read with ease: JSON as such, a stream as the text that it is."""

    def __init__(self, provenance: Provenance | None) -> None:
        self._provenance = provenance

    def serialize(self, cassette: dict[str, Any]) -> str:
        """What is written to the file."""
        assert self._provenance is not None  # noqa: S101 - only `recording` writes
        exchanges = [
            {
                "request": {**_without(one["request"], "body"), **_body(one["request"]["body"])},
                "response": {
                    **_without(one["response"], "body"),
                    **_body(one["response"]["body"]["string"]),
                },
            }
            for one in cassette["interactions"]
        ]
        text = yaml.dump(
            {"version": cassette["version"], "interactions": exchanges},
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=100,
        )
        return f"# {self._provenance.kind}: {self._provenance.source}\n{text}"

    def deserialize(self, text: str) -> dict[str, Any]:
        """What was given to `serialize`."""
        cassette = yaml.safe_load(text)
        for one in cassette["interactions"]:
            one["request"]["body"] = _text(one["request"])
            one["response"]["body"] = {"string": _text(one["response"])}
        return dict(cassette)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines line by line."""


def _lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _lines)


def _without(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


def _body(body: str | None) -> dict[str, Any]:
    parsed = _parsed(body)
    if parsed is not None:
        return {"json": parsed}
    return {"text": body} if body else {}


def _text(exchange: dict[str, Any]) -> str:
    if "json" in exchange:
        return json.dumps(exchange.pop("json"), ensure_ascii=False)
    return str(exchange.pop("text", ""))

"""Real HTTP traffic of a real server, as a file: what was asked, what came back, and the server's log beside it.

`Recorder` writes one while the contract tests run against a real server (record.py); stand_in.py plays it back.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

MARK = "created"
"""A file in the model folder, while a recording is made or played: the model has been created there."""


@dataclass(frozen=True)
class Exchange:
    """One request and its answer. `created`: the server had the model already. `chunks`: the body as it arrived."""

    method: str
    path: str
    body: Any
    created: bool
    status: int
    content_type: str
    chunks: list[str]

    @property
    def key(self) -> str:
        return key(self.method, self.path, self.body, self.created)


def key(method: str, path: str, body: Any, created: bool) -> str:
    return json.dumps([method, path, body, created], sort_keys=True)


@dataclass(frozen=True)
class Recording:
    """`started`, `loaded`: what the server's log said until it listened, and while it loaded the model."""

    version: str
    recorded: str
    started: str
    loaded: str
    exchanges: list[Exchange]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read(path: Path) -> Recording:
    facts = json.loads(path.read_text())
    return Recording(**facts | {"exchanges": [Exchange(**exchange) for exchange in facts["exchanges"]]})


class Recorder(httpx.HTTPTransport):
    """A transport that remembers what passes; the same question in the same state is kept once."""

    exchanges: dict[str, Exchange] = {}  # noqa: RUF012 - of all transports of the process
    models: Path = Path()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        created = (self.models / MARK).exists()
        response = super().handle_request(request)
        body = json.loads(request.read() or b"null")
        asked = Exchange(
            request.method,
            request.url.path,
            body,
            created,
            response.status_code,
            response.headers.get("content-type", ""),
            chunks=[],
        )
        if asked.path == "/api/create" and response.status_code == 200:
            (self.models / MARK).touch()
        self.exchanges.setdefault(asked.key, asked)
        return httpx.Response(response.status_code, headers=response.headers, stream=Tee(response, asked))


class Tee(httpx.SyncByteStream):
    """The body passes on as it comes, and is kept."""

    def __init__(self, response: httpx.Response, asked: Exchange) -> None:
        self._response = response
        self._asked = asked

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._response.stream:  # type: ignore[union-attr]
            self._asked.chunks.append(chunk.decode())
            yield chunk

    def close(self) -> None:
        self._response.close()


def without_paths(log: str) -> str:
    """The lines that say what was found and loaded, without where anything is on the machine it was recorded on."""
    private = re.compile(r"GIN|ssh-ed25519|server config|public key|private")
    kept = [line for line in log.splitlines() if not private.search(line)]
    return re.sub(r"/\S*/", "", "\n".join(kept)) + "\n"


def today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()

"""A hub on this machine: huggingface_hub's client cannot tell it from the real one; tests can break it.

Two servers, as in reality: the hub, which lists repositories and redirects large files, and the store that holds their
bytes under another address. What was asked for and what was sent is written down.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_BYTES = 4096
"""Files from here on are kept as large ones."""
CHUNK_BYTES = 1 << 16
COMMIT = "c0ffee" + "0" * 34
API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/?]+)(?:/revision/(?P<revision>[^/?]+))?(?:\?.*)?")
RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Request:
    """`sent`: bytes of the body that left; `start`: where the asked range begins."""

    server: str
    path: str
    headers: dict[str, str]
    start: int = 0
    sent: int = 0


@dataclass
class FakeHub:
    """State that a test sets. `cut_at`: the store closes the connection once, at this byte of a file."""

    repository: str
    files: dict[str, bytes]
    commit: str = COMMIT
    gated: bool = False
    revisions: set[str] = field(default_factory=lambda: {"main", COMMIT})
    extra_names: list[str] = field(default_factory=list)
    cut_at: int | None = None
    down: bool = False
    ranges: bool = True
    pause_seconds: float = 0.0
    altered: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    address: str = ""
    store_address: str = ""

    def bodies(self) -> list[Request]:
        """Answered requests for bytes of large files."""
        return [request for request in self.requests if request.server == "store" and request.sent]

    def body(self, name: str) -> bytes:
        content = self.files[name]
        return self.altered[name](content) if name in self.altered else content

    def listed(self) -> dict[str, Any]:
        siblings = [described(name, content) for name, content in self.files.items()]
        siblings += [described(name, b"x") for name in self.extra_names]
        return {"id": self.repository, "modelId": self.repository, "sha": self.commit, "siblings": siblings}


def described(name: str, content: bytes) -> dict[str, Any]:
    git_id = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    found: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_id}
    if len(content) >= LFS_BYTES:
        found["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        found["blobId"] = "f" * 40  # of the pointer
    return found


class Server(ThreadingHTTPServer):
    """`kind`: "hub" or "store"."""

    def __init__(self, hub: FakeHub, kind: str) -> None:
        self.hub, self.kind = hub, kind
        super().__init__(("127.0.0.1", 0), Handler)


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    servers = [Server(hub, kind) for kind in ("hub", "store")]
    hub.address, hub.store_address = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        hub = self.server.hub
        asked = {name.lower(): value for name, value in self.headers.items()}
        hub.requests.append(request := Request(self.server.kind, self.path, asked))
        if hub.down:
            self.hang_up()
        elif self.server.kind == "store":
            self.send_bytes(request, self.path.lstrip("/"))
        elif found := API.fullmatch(self.path):
            self.list_repository(found)
        elif found := RESOLVE.fullmatch(self.path):
            self.resolve(found)
        else:
            self.answer(404, {"X-Error-Code": "RepoNotFound"})

    def list_repository(self, found: re.Match[str]) -> None:
        hub = self.server.hub
        if found["repository"] != hub.repository:
            self.answer(401, {"X-Error-Code": "RepoNotFound"})
        elif hub.gated:
            self.answer(401, {"X-Error-Code": "GatedRepo"})
        elif found["revision"] and found["revision"] not in hub.revisions:
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(hub.listed()).encode())

    def resolve(self, found: re.Match[str]) -> None:
        """Small files at once, large ones from the store."""
        hub, name = self.server.hub, found["name"]
        content = hub.files.get(name)
        if content is None or found["revision"] not in (hub.commit, *hub.revisions):
            self.answer(404, {"X-Error-Code": "EntryNotFound"})
            return
        known = described(name, content)
        facts = {"X-Repo-Commit": hub.commit, "ETag": f'"{known["blobId"]}"'}
        if len(content) < LFS_BYTES:
            self.answer(200, facts, hub.body(name))
            return
        linked = {
            "X-Linked-Etag": f'"{known["lfs"]["sha256"]}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{hub.store_address}/{name}",
        }
        self.answer(302, facts | linked)

    def send_bytes(self, request: Request, name: str) -> None:
        hub = self.server.hub
        content = hub.body(name)
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", "")) if hub.ranges else None
        request.start = int(asked[1]) if asked else 0
        body = content[request.start :]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {request.start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.send_slowly(request, body[: self.cut(request, len(body))])
        if request.sent < len(body):
            self.hang_up()

    def cut(self, request: Request, size: int) -> int:
        """How much of the answer leaves; after a cut nobody answers any more."""
        hub = self.server.hub
        if hub.cut_at is None:
            return size
        end, hub.cut_at, hub.down = max(0, hub.cut_at - request.start), None, True
        return min(size, end)

    def send_slowly(self, request: Request, body: bytes) -> None:
        for at in range(0, len(body), CHUNK_BYTES):
            self.wfile.write(body[at : at + CHUNK_BYTES])
            request.sent += len(body[at : at + CHUNK_BYTES])
            time.sleep(self.server.hub.pause_seconds)

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def handle_one_request(self) -> None:
        """A client that was killed is no fault of this server."""
        with suppress(ConnectionError):
            super().handle_one_request()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

"""A program that stands in for `ollama`: plays a recording back over HTTP, or breaks in one of several ways.

Run as `python stand_in.py RECORDING FAULT serve`. The faults are what the engine has to survive:
    none, taken (the port), silent (never listens), refuses (the model), dies (in the middle of an answer),
    hangs (likewise), stops (likewise, but orderly), miscounts (its own account), babbles (words that are none)
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent))
from recording import MARK, Exchange, Recording, key, read

# Written by hand, in the words of 0.24.0's sources (cmd/cmd.go, server/routes.go): none of this is recorded.
TAKEN = "Error: listen tcp 127.0.0.1:11434: bind: address already in use"
BY_HAND = {"/api/version": '{{"version":"{version}"}}', "/api/ps": '{{"models":[]}}'}
REFUSED = '{"error":"unable to load model: blobs/sha256-0"}'


class Player(BaseHTTPRequestHandler):
    """Answers what was recorded; what was not is a 404 that says so."""

    protocol_version = "HTTP/1.1"
    recording: ClassVar[Recording]
    fault: ClassVar[str]
    models: ClassVar[Path]

    def do_GET(self) -> None:
        if self.path in BY_HAND:
            self._send(200, "application/json", [BY_HAND[self.path].format(version=self.recording.version)])
        else:
            self._answer(None)

    def do_POST(self) -> None:
        if self.path.startswith("/api/blobs/"):
            self._take_blob()
            return
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _take_blob(self) -> None:
        """And forget it."""
        self.rfile.read(int(self.headers["content-length"]))
        self._send(201, "application/json", [])

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: Any) -> None:
        exchange = self._recorded(body)
        if exchange is None:
            self._send(404, "application/json", [json.dumps({"error": f"not in the recording: {body}"})])
            return
        if self.path == "/api/create":
            (self.models / MARK).touch()
        if self.path == "/api/generate" and not body["prompt"]:
            if self.fault == "refuses":
                self._send(500, "application/json", [REFUSED])
                return
            print(self.recording.loaded, flush=True)
        self._send(exchange.status, exchange.content_type, self._spoiled(exchange, body))

    def _recorded(self, body: Any) -> Exchange | None:
        wanted = key(self.command, self.path, body, (self.models / MARK).exists())
        return next((exchange for exchange in self.recording.exchanges if exchange.key == wanted), None)

    def _spoiled(self, exchange: Exchange, body: Any) -> list[str]:
        """The body, with the fault in the middle of an answer to a prompt."""
        chunks = list(exchange.chunks)
        if self.path != "/api/generate" or not body["prompt"]:
            return chunks
        if self.fault == "miscounts":
            chunks[-1] = chunks[-1].replace('"prompt_eval_count":', '"prompt_eval_count":9')
        if self.fault == "babbles":
            chunks[0] = chunks[0].replace('"response":" ', '"response":" BABBLE')
        if self.fault in ("dies", "hangs"):
            chunks[2:] = [self.fault]
        if self.fault == "stops":
            del chunks[2:]
        return chunks

    def _send(self, status: int, content_type: str, chunks: list[str]) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in [*chunks, ""]:
            if chunk == "dies":
                os._exit(3)
            if chunk == "hangs":
                time.sleep(3600)
            self.wfile.write(f"{len(chunk.encode()):x}\r\n{chunk}\r\n".encode())
            self.wfile.flush()


def main(path: str, fault: str) -> None:
    recording = read(Path(path))
    if fault == "taken":
        raise SystemExit(TAKEN)
    if fault == "silent":
        time.sleep(3600)
    Player.recording, Player.fault, Player.models = recording, fault, Path(os.environ["OLLAMA_MODELS"])
    Player.models.mkdir(parents=True, exist_ok=True)
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    with ThreadingHTTPServer((host, int(port)), Player) as server:
        print(recording.started)
        print(f'msg="Listening on 127.0.0.1:{server.server_port} (version {recording.version})"', flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

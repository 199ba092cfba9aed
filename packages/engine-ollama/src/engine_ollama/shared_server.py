"""An Ollama server that somebody else runs: used, never started, configured or ended.

Stands where `Server` stands. What only a log tells is not known of it.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import ollama

from .server import ServerFailed

ASK_SECONDS = 10.0


class SharedServer:
    """The server at `host`, HOST:PORT or a URL. `folder` is where a copy for it is written, to be sent."""

    def __init__(self, host: str, cache: Path) -> None:
        """Raises ServerFailed unless an Ollama server answers."""
        self.address = host
        self.folder = cache / "to-send"
        url = host if "://" in host else f"http://{host}"
        try:
            answer = httpx.get(f"{url}/api/version", timeout=ASK_SECONDS, trust_env=False).raise_for_status()
            self.version = str(answer.json()["version"])
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise ServerFailed(f"no Ollama server answers at {host}: {type(error).__name__}: {error}") from None

    def take(self, client: ollama.Client, copy: Path, sha256: str) -> None:
        """Over HTTP; the server checks the sum."""
        client.create_blob(copy)

    def last_lines(self) -> str:
        return ""

    def failure(self, what: str) -> ServerFailed:
        return ServerFailed(what)

    def close(self) -> None:
        """It goes on running."""

"""An `ollama serve` of our own: started on a free loopback port, watched, ended with everything it started.

Sees an allow-listed environment, a home and a model folder under our cache, and no cloud. Its log is a file, so that
nobody has to read a pipe while requests are timed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import with_parent

if TYPE_CHECKING:
    import ollama

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
LISTENING = re.compile(r"Listening on (?P<address>127\.0\.0\.1:\d+) \(version (?P<version>[^)]*)\)")
START_SECONDS, TERM_SECONDS, KILL_SECONDS = 60.0, 5.0, 10.0
POLL_SECONDS = 0.02
LAST_LINES = 15


class ServerFailed(Exception):
    """The server did not start, or is gone. `log` holds its last lines."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Server:
    """One running `ollama serve`. Close it, whatever happens.

    address  host:port, as the server itself told it
    version  likewise
    """

    address: str
    version: str

    def __init__(
        self, program: str, cache: Path, scratch: Path, settings: Mapping[str, str], patience: float = START_SECONDS
    ) -> None:
        """Returns when the server listens. Raises ServerFailed."""
        self.log_path = scratch / "ollama.log"
        self.folder = cache / "models"
        command = [sys.executable, "-I", "-S", with_parent.__file__, program, "serve"]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(cache, scratch, settings),
                cwd=scratch,
                process_group=0,
            )
        try:
            self.address, self.version = self._listening(time.monotonic() + patience)
        except BaseException:
            self.close()
            raise

    def take(self, client: ollama.Client, copy: Path, sha256: str) -> None:
        """Into its folder of blobs, where it looks first: nothing is sent."""
        blobs = self.folder / "blobs"
        blobs.mkdir(exist_ok=True)
        copy.replace(blobs / f"sha256-{sha256}")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def last_lines(self) -> str:
        return "\n".join(self.log().splitlines()[-LAST_LINES:])

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def failure(self, what: str) -> ServerFailed:
        """`what` happened, and whether the server is still there."""
        code = self.exit_code()
        ended = "" if code is None else f"; `ollama serve` has ended with {code}"
        return ServerFailed(what + ended, self.last_lines())

    def close(self) -> None:
        """Let it end its runner, then make sure that nobody of the group is left."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERM_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait(KILL_SECONDS)

    def _listening(self, deadline: float) -> tuple[str, str]:
        """From the log, not by asking: on another's port another server may answer."""
        while time.monotonic() < deadline:
            ended = self.exit_code() is not None
            if found := LISTENING.search(self.log()):
                return found["address"], found["version"]
            if ended:
                raise self.failure("Ollama did not start")
            time.sleep(POLL_SECONDS)
        raise self.failure("Ollama does not listen, though it had time to")

    def _signal(self, number: signal.Signals) -> None:
        """To the group, which the runner belongs to; it can outlive its leader."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def environment(cache: Path, scratch: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """All that the server sees. Its home holds the key that it makes at its first start."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        **passed,
        "HOME": str(cache),
        "TMPDIR": str(scratch),
        "OLLAMA_HOST": "127.0.0.1:0",
        "OLLAMA_MODELS": str(cache / "models"),
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        **settings,
    }

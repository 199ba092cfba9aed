"""Record the traffic of the contract tests with the `ollama` on PATH: python packages/engine-ollama/tests/record.py"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))

from engine_ollama import account, server  # noqa: E402 - the tests' own modules come first on the path
from recording import Recorder, Recording, today, without_paths  # noqa: E402

logs: list[tuple[str, str]] = []
"""(version, log) of each server, in the order in which they ended."""


class RecordedServer(server.Server):
    def __init__(self, program: str, cache: Path, *arguments: Any) -> None:
        Recorder.models = cache / "models"
        super().__init__(program, cache, *arguments)

    def close(self) -> None:
        super().close()
        logs.append((getattr(self, "version", ""), self.log()))


def main() -> int:
    if shutil.which("ollama") is None:
        raise SystemExit("no program `ollama` on PATH: nothing to record")
    httpx._client.HTTPTransport = Recorder  # type: ignore[attr-defined]
    server.Server = RecordedServer  # type: ignore[misc]
    code = pytest.main([str(TESTS / "test_contract.py"), "-q", "-k", "real", "-p", "no:cacheprovider"])
    version, log = logs[0]
    started, _, rest = log.partition("Listening on ")
    loaded = rest[rest.index(account.LOAD) :]
    exchanges = list(Recorder.exchanges.values())
    recording = Recording(version, today(), without_paths(started), without_paths(loaded), exchanges)
    recording.write(TESTS / "recordings" / f"v{version}.json")
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main())

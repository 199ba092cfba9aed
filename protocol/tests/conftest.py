"""The toy engine of support/ as a child process."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginebench_protocol.client import Client
from enginebench_protocol.framing import FrameStream

SUPPORT = Path(__file__).parent / "support"
"""On the path of every suite; of a child process it has to be told."""

RUN_TOY = "from enginebench_protocol.main import run; run('toy_engine:ToyEngine', models='toy_engine:ToyModels')"

Spawn = Callable[..., tuple[subprocess.Popen[bytes], Client]]


@pytest.fixture
def toy_command() -> list[str]:
    """Runs the toy engine; arguments are appended."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SUPPORT)!r}); {RUN_TOY}"]


@pytest.fixture
def spawn(toy_command: list[str]) -> Iterator[Spawn]:
    """spawn() starts the toy engine as a real child process, before its hello."""
    children: list[subprocess.Popen[bytes]] = []

    def start(nonce: str = "n1") -> tuple[subprocess.Popen[bytes], Client]:
        child = subprocess.Popen(
            [*toy_command, "serve", "--nonce", nonce],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        children.append(child)
        assert child.stdin and child.stdout
        return child, Client(FrameStream(child.stdout.fileno(), child.stdin.fileno()))

    yield start
    for child in children:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()

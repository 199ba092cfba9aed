"""An engine that stops at a chosen state and leaves things behind: `python stand_in.py PLAN ARGUMENT…`.

The arguments are those of an interpreter: `enginebench run --python engine-x=WRAPPER` starts it in an engine's place,
so nothing of the product knows of it. What it did is told in the file `arrived` beside the plan; then it stands still.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import msgspec
from enginebench_protocol.engine import GREEDY, Engine, Logits, MemoryAccount, ProgressSink, Sampling
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.main import claim_stdio
from enginebench_protocol.messages import Load, Loaded
from enginebench_protocol.serve import die_with_parent, serve

FOREVER_SECONDS = 1000
SLEEP = ["sleep", str(FOREVER_SECONDS)]
LISTEN = (
    "import socket, time\ns = socket.create_server(('127.0.0.1', 0))\n"
    f"print(s.getsockname()[1], flush=True)\ntime.sleep({FOREVER_SECONDS})"
)
_IPC_PRIVATE, _MODE = 0, 0o600


class Plan(msgspec.Struct, frozen=True):
    """`state`: where it stops; "" for nowhere. `launch`: in which of its processes, counted from 1."""

    engine: str
    configurations: list[str]
    vocab_size: int
    state: str = ""
    launch: int = 1
    stands: str = "asleep"
    """asleep, native (holds the interpreter lock), deaf (to SIGTERM), stopped (by SIGSTOP); gone: not at all"""
    leaves: list[str] = []


class Left(msgspec.Struct, frozen=True):
    """What was made on arrival, for whoever looks whether it is gone."""

    state: str = ""
    pids: list[int] = []
    ports: list[int] = []
    files: list[str] = []
    segments: list[int] = []


class StandIn(Engine):
    """Answers at once and always the same."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.name = plan.engine  # type: ignore[misc]
        self.configurations = dict.fromkeys(plan.configurations, "a stand-in")  # type: ignore[misc]
        self.requests = 0

    def at(self, state: str) -> None:
        if state == self.plan.state:
            arrive(self.plan, self.folder)

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        progress("read", 0.5)
        self.at("load")
        return Loaded(
            id=request.id,
            weights_fingerprint="0" * 64,
            precision="16-bit",
            weight_dtype="float16",
            activation_dtype="float16",
            kv_dtype="float16",
            device=request.device,
            threads=request.threads,
            n_ctx=request.n_ctx,
            vocab_size=self.plan.vocab_size,
            weights_bytes=0,
            kv_cache_bytes=0,
            read_bytes_per_token=0,
            stages={},
            versions={},
        )

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        self.requests += 1
        for index in range(n_gen):
            if index == n_gen // 2:
                self.at(f"request {self.requests}")
            time.sleep(0.001)
            yield index % self.plan.vocab_size

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        self.at("score")
        rows = len(tokens) - n_prefill + 1
        return memoryview(bytearray(4 * rows * self.plan.vocab_size)).cast("f", [rows, self.plan.vocab_size])

    def profile(self, prompt: array[int], n_gen: int, folder: Path) -> dict[str, Path]:
        self.at("profile")
        path = folder / "trace.json"
        path.write_text('{"traceEvents": []}')
        return {path.name: path}

    def memory(self) -> MemoryAccount:
        self.at("memory")
        return MemoryAccount(weights_bytes=0, kv_cache_bytes=0)

    def unload(self) -> None:
        self.at("unload")


def arrive(plan: Plan, folder: Path) -> None:
    """Leave what is to be left, tell it, stand still."""
    if plan.stands == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    left = Left(plan.state)
    for kind in plan.leaves:
        left = LEAVING[kind](left)
    part = folder / "arrived.part"
    part.write_bytes(msgspec.json.encode(left))
    part.rename(folder / "arrived")
    stand(plan.stands)


def stand(how: str) -> None:
    if how == "gone":
        os._exit(0)
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "native":
        ctypes.PyDLL(None).sleep(FOREVER_SECONDS)
    time.sleep(FOREVER_SECONDS)


def _process(left: Left, command: list[str], **options: Any) -> tuple[Left, subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, **options)
    return msgspec.structs.replace(left, pids=[*left.pids, process.pid]), process


def in_group(left: Left) -> Left:
    return _process(left, SLEEP)[0]


def own_session(left: Left) -> Left:
    return _process(left, SLEEP, start_new_session=True)[0]


def bare(left: Left) -> Left:
    """Nothing of the environment, a session of its own; it still has our stderr."""
    return _process(left, ["/bin/sleep", str(FOREVER_SECONDS)], start_new_session=True, env={}, cwd="/")[0]


def hidden(left: Left) -> Left:
    """As a daemon does it on purpose: nothing is left by which it could be known."""
    null = subprocess.DEVNULL
    options: dict[str, Any] = {"stdin": null, "stdout": null, "stderr": null}
    return _process(left, ["/bin/sleep", str(FOREVER_SECONDS)], start_new_session=True, env={}, cwd="/", **options)[0]


def server(left: Left) -> Left:
    left, process = _process(left, [sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    return msgspec.structs.replace(left, ports=[*left.ports, int(process.stdout.readline())])


def unix_socket(left: Left) -> Left:
    """In the scratch folder, where a server of an engine has its own."""
    path = str(Path(os.environ["TMPDIR"]) / "s")
    KEPT.append(socket.socket(socket.AF_UNIX))
    KEPT[-1].bind(path)
    return msgspec.structs.replace(left, files=[*left.files, path])


def posix_memory(left: Left) -> Left:
    """Python's own: a helper process unlinks it once we are gone."""
    KEPT.append(shared_memory.SharedMemory(create=True, size=1 << 20))
    return msgspec.structs.replace(left, files=[*left.files, f"/dev/shm/{KEPT[-1].name.lstrip('/')}"])


def system_v_memory(left: Left) -> Left:
    libc = ctypes.CDLL(None)
    segment = libc.shmget(_IPC_PRIVATE, ctypes.c_size_t(1 << 20), _MODE)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat(segment, None, 0)
    return msgspec.structs.replace(left, segments=[*left.segments, segment])


KEPT: list[Any] = []
LEAVING = {
    "group": in_group,
    "session": own_session,
    "bare": bare,
    "hidden": hidden,
    "server": server,
    "socket": unix_socket,
    "posix": posix_memory,
    "sysv": system_v_memory,
}


def main() -> int:
    path, *arguments = sys.argv[1:]
    folder = Path(path).parent
    plan = msgspec.json.decode(Path(path).read_bytes(), type=Plan)
    if arguments[0] == "-c":  # asked for its versions
        if plan.state == "versions":
            arrive(plan, folder)
        os.execv(sys.executable, [sys.executable, *arguments])
    if arguments[0] == "sync":  # called `uv`
        arrive(plan, folder)
    with (folder / "launches").open("ab") as launches:
        launches.write(b".")
        if launches.tell() != plan.launch:
            plan = msgspec.structs.replace(plan, state="")
    if plan.state == "spawn":
        arrive(plan, folder)
    read_fd, write_fd = claim_stdio()
    die_with_parent(read_fd)
    code = serve(StandIn(plan, folder), FrameStream(read_fd, write_fd), arguments[arguments.index("--nonce") + 1])
    if plan.state == "shutdown":
        arrive(plan, folder)
    if plan.state == "ended":
        arrive(msgspec.structs.replace(plan, stands="gone"), folder)
    return code


if __name__ == "__main__":
    sys.exit(main())

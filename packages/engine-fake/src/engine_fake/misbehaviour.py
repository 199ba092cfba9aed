"""Ways in which a real engine goes wrong, one function each; they act in this very process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from enginebench_protocol.errors import EngineFailure

FOREVER_SECONDS = 10_000


def nothing() -> None:
    """The engine behaves."""


def as_it_is(ids: Iterator[int]) -> Iterator[int]:
    """The generator is closed where it stands."""
    return ids


def cling(ids: Iterator[int]) -> Iterator[int]:
    """Python raises RuntimeError in whoever closes this."""
    for token in ids:
        try:
            yield token
        except GeneratorExit:
            yield token


def write_to_stdout() -> None:
    """As Python code, as a raw write, as a C library and as a grandchild do it."""
    print("engine-fake: noise from print", flush=True)
    os.write(1, b"engine-fake: noise from write(1)\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"engine-fake: noise from C stdio")
    libc.fflush(None)
    subprocess.run(["/bin/sh", "-c", "echo engine-fake: noise from a grandchild"], check=True)


def flood_stderr() -> None:
    """More than a pipe holds: a parent that does not drain stderr stops us here."""
    for _ in range(8 * 1024):
        sys.stderr.write("x" * 1023 + "\n")


def leave_orphan() -> None:
    """A process outside our process group: killing the group does not reach it."""
    subprocess.Popen(["sleep", str(FOREVER_SECONDS)], start_new_session=True)


def refuse() -> None:
    raise EngineFailure("unsupported", "engine-fake was asked to refuse", "choose another configuration")


def run_out_of_memory() -> None:
    raise MemoryError("engine-fake was asked to run out of memory")


def leave() -> None:
    print("engine-fake: about to exit with code 3", file=sys.stderr, flush=True)
    os._exit(3)


def fail_unexpectedly() -> None:
    raise ValueError("engine-fake was asked to have a bug")


def crash() -> None:
    print("engine-fake: about to crash", file=sys.stderr, flush=True)
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)
    hang()  # the signal ends the process before this matters


def hang() -> None:
    time.sleep(FOREVER_SECONDS)


def hang_stubbornly() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang()


def hang_in_native_code() -> None:
    """PyDLL keeps the interpreter lock: no other thread of this process runs meanwhile."""
    ctypes.PyDLL(None).sleep(FOREVER_SECONDS)

"""What an orchestrator may leave behind, by the kernel's account: processes below us, ports, shared memory.

We are the reaper of everything below us, so whoever is below us is an orphan, whatever it calls itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection
from pathlib import Path

import psutil


def orphans(spared: Collection[int] = ()) -> list[psutil.Process]:
    """Everything below us that is no zombie; zombies are reaped."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [p for p in psutil.Process().children(recursive=True) if p.pid not in spared and is_alive(p)]


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def told(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    return f"{process.pid}"


def has_child(pid: int, word: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(word in told(child) for child in psutil.Process(pid).children())
    return False


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def segments() -> set[int]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    return {int(line.split()[1]) for line in lines[1:]}

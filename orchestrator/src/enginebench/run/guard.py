"""What is ended with us, whatever ends us: a watchdog process, the folder of this run, programs with own groups.

Our end is not always our own: SIGKILL, a closed terminal, a kernel without memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import psutil

from .limits import Ladder
from .passed_on import program_environment
from .watchdog import GIVE_UP_SECONDS, PREFIX, remove_segments

TRACKER = "multiprocessing.resource_tracker"
"""Python's: it unlinks shared memory once all who could use it are gone, and then ends by itself."""
SCRIPT = str(Path(__file__).with_name("watchdog.py"))


class Watchdog:
    """The process that outlives us; see watchdog.py. One for the life of the orchestrator, closed whatever happens.

    `folder` is where launches make their scratch folders: what is in it, and who was told of it, ends with us.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(4)}"
        self._guarded: list[int] = []
        self._process = self._started()
        self.folder.mkdir(mode=0o700)  # later than the one who removes it
        self._lock = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def pid(self) -> int:
        return self._process.pid

    def guard(self, group: int) -> None:
        self._guarded.append(group)
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        self._guarded.remove(group)
        self._tell(f"-{group}\n")

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
        with contextlib.suppress(OSError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GIVE_UP_SECONDS + 2)
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", SCRIPT, str(self.folder)]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            env=program_environment(),
            start_new_session=True,
            text=True,
            bufsize=1,
        )

    def _tell(self, line: str) -> None:
        """A watchdog that was killed is replaced: the next one is told everything."""
        try:
            self._stdin.write(line)
        except BrokenPipeError:
            self._replace()

    def _replace(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._process.wait()
        self._process = self._started()
        for group in self._guarded:
            self._stdin.write(f"+{group}\n")


def wait_for_trackers(group: int, seconds: float) -> None:
    """Of a group whose leader has ended: a tracker minds no SIGTERM, but ends with the one that it works for."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and any(_tracks(p, group) for p in psutil.Process().children(recursive=True)):
        time.sleep(0.01)


def is_tracker(process: psutil.Process) -> bool:
    """Or may become one: who lives and has no command line is being started."""
    try:
        words = process.cmdline()
    except psutil.Error:  # a zombie
        return False
    return not words or TRACKER in " ".join(words)


def _tracks(process: psutil.Process, group: int) -> bool:
    with contextlib.suppress(OSError):
        return is_tracker(process) and os.getpgid(process.pid) == group
    return False


def watchdogs() -> set[int]:
    """Those of this process, for whoever ends everything else."""
    return {child.pid for child in psutil.Process().children() if SCRIPT in _words(child)}


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextlib.contextmanager
def guarded(popen: subprocess.Popen[Any], watchdog: Watchdog | None) -> Iterator[None]:
    """A program with a process group of its own: whatever happens, nothing of it is left."""
    if watchdog is not None:
        watchdog.guard(popen.pid)
    try:
        yield
    finally:
        if popen.poll() is None:
            popen.kill()
        wait_for_trackers(popen.pid, Ladder.helpers)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        remove_segments(popen.pid)
        if watchdog is not None:
            watchdog.release(popen.pid)

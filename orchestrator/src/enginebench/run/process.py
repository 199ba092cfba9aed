"""Engine processes: spawn, read their last words, end them for certain.

An engine gets an allow-listed environment, its own session and process group, and pipes for the protocol. Spawning
happens on the main thread only: the kernel's parent-death signal fires when the spawning *thread* ends.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from enginebench.machine.memory import process_tree

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "XDG_CACHE_HOME",
)
"""All that an engine sees of the caller's environment: no tokens, no proxies, no tuning variables."""

STDERR_HEAD_LINES, STDERR_TAIL_LINES, STDERR_LINE_BYTES = 20, 80, 2000
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_GRACE_SECONDS, _TERM_SECONDS = 5.0, 5.0


def engine_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**passed, "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1", **(extra or {})}


class Watchdog:
    """The process that outlives us; see watchdog.py. One for the life of the orchestrator."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("watchdog.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(script)], stdin=subprocess.PIPE, start_new_session=True, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def guard(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()


class ChildProcess:
    """One running engine and the pipes to it. Close it, whatever happens; `close` is the kill ladder."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        watchdog: Watchdog | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """`tell`: hears each line of stderr. Raises OSError if the program cannot be started."""
        self.started_ns = time.perf_counter_ns()
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
        assert self.popen.stdin and self.popen.stdout and self.popen.stderr
        self.read_fd = self.popen.stdout.fileno()
        self.write_fd = self.popen.stdin.fileno()
        self._tell = tell
        self._watchdog = watchdog
        if watchdog is not None:
            watchdog.guard(self.pid)
        self._head: list[str] = []
        self._tail: collections.deque[str] = collections.deque(maxlen=STDERR_TAIL_LINES)
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True, name="stderr")
        self._drain.start()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def last_lines(self) -> list[str]:
        """The first and last lines of stderr, printable characters only."""
        return self._head + list(self._tail)

    def wait(self, timeout: float) -> int | None:
        """The exit code (negative: signal), or None if it still runs."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def close(self, grace: float = _GRACE_SECONDS, spared: Iterable[int] = ()) -> int | None:
        """Close stdin, wait, SIGTERM the group, wait, SIGKILL the group; reap. Returns the exit code.

        `spared`: other children of ours, which live on with all that is below them.
        """
        with contextlib.suppress(OSError):
            self.popen.stdin.close()  # type: ignore[union-attr]
        if self.wait(grace) is None:
            self._signal(signal.SIGTERM)
            self.wait(_TERM_SECONDS)
        self._signal(signal.SIGKILL)  # the group may outlive its leader
        code = self.wait(10.0)
        watched = [self._watchdog.pid] if self._watchdog else []
        sweep_descendants(keep={pid for root in (*watched, *spared) for pid in process_tree(root)})
        self._drain.join(1.0)
        self.popen.stdout.close()  # type: ignore[union-attr]
        if not self._drain.is_alive():
            self.popen.stderr.close()  # type: ignore[union-attr]
        if self._watchdog is not None:
            self._watchdog.release(self.pid)
        return code

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _drain_stderr(self) -> None:
        stderr = self.popen.stderr
        assert stderr is not None
        for raw in iter(lambda: stderr.readline(STDERR_LINE_BYTES), b""):
            line = printable(raw.decode("utf-8", "replace").rstrip("\n"))
            (self._head if len(self._head) < STDERR_HEAD_LINES else self._tail).append(line)
            if self._tell is not None:
                self._tell(f"stderr | {line}")


def printable(text: str) -> str:
    """Without control characters: an engine's log must not drive the reader's terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


def become_subreaper() -> None:
    """Orphaned grandchildren become our children, so that `sweep_descendants` finds them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def sweep_descendants(keep: set[int]) -> list[int]:
    """Kill and reap every process below us except `keep`. Returns the pids."""
    strays = [p for p in psutil.Process().children(recursive=True) if p.pid not in keep]
    for stray in strays:
        with contextlib.suppress(psutil.NoSuchProcess):
            stray.kill()
    psutil.wait_procs(strays, timeout=5.0)
    return [stray.pid for stray in strays]

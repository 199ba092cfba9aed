"""Engine processes: spawn, read their last words, end them for certain.

An engine gets an environment from a list (passed_on.py), its own session and process group, and pipes for the
protocol. Spawning happens on the main thread only: the kernel's parent-death signal fires when the spawning *thread*
ends.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from enginebench.machine.memory import process_tree
from enginebench.plain_text import printable

from .guard import Watchdog, is_tracker, wait_for_trackers
from .limits import Ladder
from .watchdog import remove_segments

STDERR_HEAD_LINES, STDERR_TAIL_LINES, STDERR_LINE_BYTES = 20, 80, 2000
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_FIRST_VICTIM = "1000"  # proc(5), oom_score_adj: the kernel takes the engine, never us


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    code: int | None
    """Exit code, negative: the signal; None: it could not be reaped."""
    by_itself: bool
    """Before anything of ours told it to."""
    ended_with: str = ""
    """The last signal of ours that it took; empty: none."""
    remains: list[str] = field(default_factory=list)
    """What could not be removed."""


class ChildProcess:
    """One running engine and the pipes to it. Close it, whatever happens; `close` is the kill ladder."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        watchdog: Watchdog | None = None,
        tell: Callable[[str], None] | None = None,
        ladder: Ladder | None = None,
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
        self.pidfd = _pidfd_of(self.popen)
        """Becomes readable when the process ends; a signal through it reaches no other process."""
        self.ending: Ending | None = None
        """Once it is closed."""
        self._tell = tell
        self._ladder = ladder or Ladder()
        self._watchdog = watchdog
        if watchdog is not None:
            watchdog.guard(self.pid)
        self._head: list[bytes] = []
        self._tail: collections.deque[bytes] = collections.deque(maxlen=STDERR_TAIL_LINES)
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True, name="stderr")
        self._drain.start()
        _bounded(self.pid)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def last_lines(self) -> list[str]:
        """The first and last lines of stderr, printable characters only."""
        return [_text(raw) for raw in (*self._head, *self._tail)]

    def wait(self, timeout: float) -> int | None:
        """The exit code (negative: signal), or None if it still runs. Does not reap: its number stays its own."""
        if self.ending is not None:
            return self.ending.code
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return None
        try:
            status = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:  # the sweep after another engine took it for a stray
            return -signal.SIGKILL
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def close(self, grace: float | None = None, spared: Iterable[int] = (), *, stack: bool = False) -> int | None:
        """Close stdin, wait, SIGTERM to the group, SIGABRT, SIGKILL; reap, and sweep up. Returns the exit code.

        `spared`: other children of ours, which live on with all that is below them. `stack`: SIGABRT comes first, so
        that Python's fault handler writes to stderr where the engine hangs (systemd's watchdog does so too).
        """
        if self.ending is None:
            by_itself = self.wait(0) is not None
            code, ended_with = self._ended(self._ladder.grace if grace is None else grace, stack)
            if code is not None:
                self.popen.wait()
            self.ending = Ending(code, by_itself, ended_with, self._swept(spared))
            self._let_go()
        return self.ending.code

    def _ended(self, grace: float, stack: bool) -> tuple[int | None, str]:
        """Its exit code, and the signal that it took. While it is not reaped, its group's number is nobody else's."""
        with contextlib.suppress(OSError):
            self.popen.stdin.close()  # type: ignore[union-attr]
        code, ended_with = self.wait(grace), ""
        steps = [(signal.SIGTERM, self._ladder.term), (signal.SIGABRT, self._ladder.abort)]
        for number, seconds in reversed(steps) if stack else steps:
            if code is None:
                self._signal(number)
                code, ended_with = self.wait(seconds), number.name
        if code is None:
            ended_with = signal.SIGKILL.name
            self._signal(signal.SIGKILL)
        wait_for_trackers(self.pid, self._ladder.helpers)
        self._signal_group(signal.SIGKILL)  # the group may outlive its leader
        code = self.wait(self._ladder.reap)
        remove_segments(self.pid)
        return code, ended_with

    def _swept(self, spared: Iterable[int]) -> list[str]:
        watched = [self._watchdog.pid] if self._watchdog else []
        keep = {pid for root in (*watched, *spared) for pid in process_tree(root)}
        return [f"process {pid}, which SIGKILL did not end" for pid in sweep_descendants(keep, self._ladder.sweep)]

    def _let_go(self) -> None:
        self._drain.join(1.0)
        self.popen.stdout.close()  # type: ignore[union-attr]
        if not self._drain.is_alive():
            self.popen.stderr.close()  # type: ignore[union-attr]
        os.close(self.pidfd)
        if self._watchdog is not None:
            self._watchdog.release(self.pid)

    def _signal(self, number: signal.Signals) -> None:
        """SIGTERM is for all of the group, the others for the engine: who cleans up after it must outlive it."""
        if number == signal.SIGTERM:
            self._signal_group(number)
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _drain_stderr(self) -> None:
        stderr = self.popen.stderr
        assert stderr is not None
        for raw in iter(lambda: stderr.readline(STDERR_LINE_BYTES), b""):
            (self._head if len(self._head) < STDERR_HEAD_LINES else self._tail).append(raw)
            if self._tell is not None:
                self._tell(f"stderr | {_text(raw)}")


def _text(raw: bytes) -> str:
    """Of a line of stderr; made where somebody reads it, for an engine that writes much waits for us."""
    return printable(raw.decode("utf-8", "replace").rstrip("\n"))


def become_subreaper() -> None:
    """Orphaned grandchildren become our children, so that `sweep_descendants` finds them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def sweep_descendants(keep: set[int], seconds: float) -> list[int]:
    """Kill and reap every process below us except `keep`. Returns the pids of those that did not end in time."""
    began = time.monotonic()
    ends = began + seconds
    while strays := [p for p in psutil.Process().children(recursive=True) if p.pid not in keep]:
        patient = time.monotonic() < began + Ladder.helpers
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                if not (patient and is_tracker(stray)):
                    stray.kill()
            with contextlib.suppress(ChildProcessError):  # the child of one that dies now is ours in the next round
                os.waitpid(stray.pid, os.WNOHANG)
        if time.monotonic() > ends:
            return [stray.pid for stray in strays]
        time.sleep(0.005)
    return []


def _pidfd_of(popen: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(popen.pid)
    except OSError:  # no descriptor is left
        popen.kill()
        popen.wait()
        raise


def _bounded(pid: int) -> None:
    """The kernel's first victim where memory runs out; writes no core file."""
    with contextlib.suppress(OSError):
        (Path("/proc") / str(pid) / "oom_score_adj").write_text(_FIRST_VICTIM)
    with contextlib.suppress(OSError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))

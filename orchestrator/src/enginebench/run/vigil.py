"""Waiting for an engine: until its frame comes, its process ends, or the limits of its state are over.

The waits of the protocol's stream are done here. A wait sleeps in the kernel on the pipe and on the process; only when
it has lasted a quarter of the stall limit (7 s at least, by the default limits) is the engine looked at, so that
nothing of ours runs beside a request that is timed.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable
from typing import Protocol

from enginebench_protocol.client import Client
from enginebench_protocol.errors import DeadlineExceeded, StreamClosed

from enginebench.machine.liveness import Signs, alive, read_signs
from enginebench.machine.memory import process_tree
from enginebench.machine.nvml import NvmlGpu

from .limits import Limits
from .overheard import Tell, stream_of
from .process import ChildProcess

LOOKS = 4
"""In the time of one stall limit."""


class Hang(DeadlineExceeded):
    """No sign of life for too long."""


class Watched(Protocol):
    """What is waited for."""

    read_fd: int
    """Of the stream."""
    pidfd: int
    """Becomes readable when the process ends."""


class Vigil:
    """Over one process. `enter` each state; give `wait` to the stream (protocol.framing.Wait)."""

    def __init__(self, child: Watched, limits: Limits, silence: float, look: Callable[[], Signs]) -> None:
        """`silence`: the longest an engine may take for a frame, however alive it seems."""
        self.stage = "spawn"
        self._child, self._limits, self._silence, self._look = child, limits, silence, look
        self._limit = limits.of("hello", silence)
        self._ends = math.inf
        self._pause = 0.0
        self._reading = self._polling(child.read_fd, select.POLLIN)

    def enter(self, stage: str, usual: float | None = None) -> None:
        """`usual`: what a request like this took until now, if that is known."""
        self.stage = stage
        self._limit = self._limits.of(stage, self._silence, usual)
        self._ends = time.monotonic() + self._limit.deadline
        self._pause = min(self._limit.stall / LOOKS, self._limit.deadline)

    def heard(self) -> None:
        """An event came. Raises DeadlineExceeded where the state has lasted too long, whatever it tells."""
        if time.monotonic() >= self._ends:
            raise DeadlineExceeded(_late("not done", self._limit.deadline))

    def wait(self, fd: int, events: int, deadline: float | None, what: str) -> None:
        """Until `fd` is ready. Raises StreamClosed if the process has ended, Hang, DeadlineExceeded.

        Almost every wait ends in its first sleep; what comes before that is done while the engine is timed.
        """
        poll = self._reading if fd == self._child.read_fd else self._polling(fd, events)
        ready = poll.poll(self._pause * 1000)
        if ready and ready[0][0] == fd:
            return
        if not ready or not self._is_ready(poll, fd, 0.0):
            self._wait_on(poll, fd, math.inf if deadline is None else deadline, what)

    def _polling(self, fd: int, events: int) -> select.poll:
        poll = select.poll()
        poll.register(fd, events)
        poll.register(self._child.pidfd, select.POLLIN)
        return poll

    def _wait_on(self, poll: select.poll, fd: int, deadline: float, what: str) -> None:
        """After a first pause in which nothing came."""
        ends = min(self._ends, deadline)
        alive_at = looked_at = time.monotonic() - self._pause
        seen: Signs | None = None
        while True:
            signs, now = self._look(), time.monotonic()
            if seen is not None and alive(seen, signs, now - looked_at):
                alive_at = now
            # One look's time and a half: the last may have been a moment ago.
            sleeps = seen is not None and now - alive_at >= 1.5 * self._limit.stall / LOOKS
            if now - alive_at >= self._limit.stall or (now >= ends and sleeps):
                raise Hang(f"{what}: no frame, no processor time, nothing read or written for {now - alive_at:.0f} s")
            if now >= ends:
                raise DeadlineExceeded(_late(what, self._limit.deadline if ends == self._ends else self._silence))
            seen, looked_at = signs, now
            until = min(ends, alive_at + self._limit.stall, now + self._limit.stall / LOOKS)
            if self._is_ready(poll, fd, until - now):
                return

    def _is_ready(self, poll: select.poll, fd: int, seconds: float) -> bool:
        ready = [found for found, _ in poll.poll(seconds * 1000)]
        if ready and fd not in ready:
            ready = [found for found, _ in poll.poll(0)]  # its last bytes may have come between the two
            if fd not in ready:
                raise StreamClosed("the process ended, and something that it left behind holds its stream")
        return bool(ready)


def _late(what: str, seconds: float) -> str:
    return f"{what} within {seconds:g} s, though it is alive"


def watched(
    child: ChildProcess,
    limits: Limits,
    silence: float,
    device: str = "cpu",
    gpu: NvmlGpu | None = None,
    tell: Tell | None = None,
) -> tuple[Client, Vigil]:
    """A client that speaks to `child`, and the vigil that its waits are kept by. `gpu`: the one that it works on."""
    vigil = Vigil(child, limits, silence, lambda: read_signs(process_tree(child.pid), gpu, device))
    return Client(stream_of(child.read_fd, child.write_fd, tell, vigil.wait)), vigil

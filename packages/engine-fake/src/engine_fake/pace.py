"""Tokens on an absolute schedule: token i appears at start + prefill + i * delay, whatever came before.

Errors therefore never add up. This is the one engine that reads the clock: the clock is its model.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence

SPIN_NS = 100_000
"""A sleep ends late by up to about 100 us in a virtual machine; the rest of the wait is spun away."""
_PR_SET_TIMERSLACK = 29  # linux/prctl.h


def now_ns() -> int:
    return time.perf_counter_ns()


def sharpen_timers() -> None:
    """The kernel may otherwise end each sleep of this thread up to 50 us late, to save wake-ups (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)


def paced(ids: Sequence[int], delays_ns: Sequence[int], start_ns: int) -> Iterator[int]:
    """Yield ids[i] when delays_ns[0] + … + delays_ns[i] have passed since `start_ns`."""
    due_ns = start_ns
    for token, delay_ns in zip(ids, delays_ns, strict=True):
        due_ns += delay_ns
        wait_until(due_ns)
        yield token


def wait_until(due_ns: int) -> None:
    remaining_ns = due_ns - now_ns()
    if remaining_ns > SPIN_NS:
        time.sleep((remaining_ns - SPIN_NS) / 1e9)
    while now_ns() < due_ns:
        pass

"""What a launch's end is called, from what was raised and how the process ended."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench.run.answer import WrongOutput
from enginebench.run.failure import Scene, failure_of
from enginebench.run.process import Ending
from enginebench.run.vigil import Hang
from enginebench_protocol.errors import (
    DeadlineExceeded,
    EngineFailure,
    FrameError,
    HandshakeError,
    MessageError,
    StreamClosed,
    Truncated,
)

ALIVE = Ending(-9, by_itself=False, ended_with="SIGKILL")
CLOSED, HALF = StreamClosed("the other side closed the stream"), Truncated("the stream ended inside a frame")


def ended(code: int) -> Ending:
    return Ending(code, by_itself=True)


@pytest.mark.parametrize(
    ("error", "ending", "reason"),
    [
        (HandshakeError("v2"), ALIVE, "handshake"),
        (MessageError("garbage"), ALIVE, "protocol-error"),
        (FrameError("frame of 0 bytes refused"), ALIVE, "protocol-error"),
        (FrameError("frame of 0 bytes refused"), ended(-11), "protocol-error"),
        (CLOSED, ALIVE, "closed"),
        (CLOSED, ended(0), "exit"),
        (CLOSED, ended(3), "exit"),
        (CLOSED, ended(-11), "signal"),
        (HALF, ALIVE, "truncated"),
        (HALF, ended(3), "truncated"),
        (HALF, ended(-11), "signal"),
        (Hang("no sign of life"), ALIVE, "hang"),
        (DeadlineExceeded("alive"), ALIVE, "deadline"),
        (EngineFailure("unsupported", "no"), ALIVE, "unsupported"),
        (EngineFailure("internal", "bug"), ALIVE, "engine-failure"),
        (EngineFailure("out-of-memory", "out of host memory: 1 TB"), ALIVE, "out-of-memory"),
        (WrongOutput("2 tokens instead of 3"), ALIVE, "wrong-output"),
    ],
)
def test_each_end_has_its_name(error: Exception, ending: Ending, reason: str) -> None:
    failure = failure_of(error, Scene("request 1", ending))
    assert (failure.reason, failure.stage) == (reason, "request 1")


@pytest.mark.parametrize("error", [Hang("no sign of life"), DeadlineExceeded("alive")])
def test_whatever_delays_a_hello_is_a_hello_timeout(error: Exception) -> None:
    assert failure_of(error, Scene("hello", ALIVE)).reason == "hello-timeout"


def test_what_we_did_to_end_it_is_not_told_as_its_own_end() -> None:
    """A frame that was refused, and the SIGTERM that followed, were once told as `killed by signal 15`."""
    failure = failure_of(FrameError("frame of 0 bytes refused"), Scene("load", Ending(-15, False, "SIGTERM")))
    assert (failure.exit_code, failure.signal, failure.ended_with) == (None, None, "SIGTERM")
    own = failure_of(CLOSED, Scene("load", ended(3)))
    assert (own.exit_code, own.signal, own.ended_with) == (3, None, "")
    assert failure_of(CLOSED, Scene("load", ended(-11))).signal == 11


# ---- memory ---------------------------------------------------------------------------------------------------


def whose(error: Exception, **scene: Any) -> tuple[str, str]:
    failure = failure_of(error, Scene("load", **{"ending": ended(-9), **scene}))
    return failure.reason, failure.out_of


def test_a_kill_that_the_kernel_counted_is_the_want_of_host_memory() -> None:
    assert whose(CLOSED, oom_killed=True, device="cuda") == ("out-of-memory", "host")
    assert whose(HALF, oom_killed=True) == ("out-of-memory", "host")
    assert whose(CLOSED) == ("signal", "")  # the control: the same end without the kernel's word


def test_an_engine_whose_process_was_killed_for_memory_says_something_else() -> None:
    lost = EngineFailure("internal", "rank 1 is lost")
    assert whose(lost, ending=ALIVE, oom_killed=True) == ("out-of-memory", "host")
    assert whose(lost, ending=ALIVE) == ("engine-failure", "")


@pytest.mark.parametrize(
    ("code", "last", "reason"),
    [
        (1, "MemoryError", "out-of-memory"),
        (1, "MemoryError: Unable to allocate 2 TiB", "out-of-memory"),
        (-6, "  what():  std::bad_alloc", "out-of-memory"),
        (1, "ValueError: MemoryError", "exit"),
        (0, "MemoryError", "exit"),
    ],
)
def test_last_words_tell_of_memory_where_the_process_gave_up(code: int, last: str, reason: str) -> None:
    assert whose(CLOSED, ending=ended(code), last_lines=["Traceback", last])[0] == reason


@pytest.mark.parametrize(
    ("device", "message", "expected"),
    [
        ("cpu", "DefaultCPUAllocator: not enough memory", "host"),
        ("cuda", "CUDA out of memory. Tried to allocate 2.00 GiB", "device"),
        ("cuda", "out of host memory: Unable to allocate 2 TiB", "host"),
    ],
)
def test_an_engine_says_itself_that_it_does_not_fit(device: str, message: str, expected: str) -> None:
    error = EngineFailure("out-of-memory", message)
    assert whose(error, ending=ALIVE, device=device) == ("out-of-memory", expected)

"""Waits for an engine, with pipes in the place of its stream and of its process, and planted signs of life."""

from __future__ import annotations

import itertools
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from enginebench.machine.liveness import Signs
from enginebench.run.limits import Limits
from enginebench.run.vigil import Hang, Vigil
from enginebench_protocol.errors import DeadlineExceeded, StreamClosed
from enginebench_protocol.framing import FrameStream, framed

STALL = 0.2


@dataclass
class Engine:
    """The far ends: what it writes, and how its process ends."""

    stream_fd: int
    process_fd: int
    vigil_of: Callable[..., tuple[FrameStream, Vigil]]

    def writes(self, data: bytes) -> None:
        os.write(self.stream_fd, data)

    def ends(self) -> None:
        os.write(self.process_fd, b"x")


@pytest.fixture
def engine() -> Iterator[Engine]:
    (stream, stream_end), (process, process_end) = os.pipe(), os.pipe()

    def vigil_of(
        look: Callable[[], Signs] = lambda: Signs(0, 0), silence: float = 60.0, limits: Limits | None = None
    ) -> tuple[FrameStream, Vigil]:
        child = SimpleNamespace(read_fd=stream, pidfd=process)
        vigil = Vigil(child, limits or Limits(stall=STALL, load_stall=STALL), silence, look)
        vigil.enter("request 1")
        return FrameStream(stream, stream_end, vigil.wait), vigil

    yield Engine(stream_end, process_end, vigil_of)
    for fd in (stream, stream_end, process, process_end):
        os.close(fd)


def computing() -> Signs:
    return Signs(4 * time.monotonic_ns(), 0)


def test_a_frame_that_comes_soon_is_waited_for_without_a_look(engine: Engine) -> None:
    def look() -> Signs:
        raise AssertionError("the engine was looked at")

    stream, _ = engine.vigil_of(look, limits=Limits(stall=100 * STALL))
    threading.Timer(STALL / 8, engine.writes, [framed(b"hello")]).start()
    assert stream.receive(timeout=60) == b"hello"


def test_one_look_more_would_have_been_noticed(engine: Engine) -> None:
    """The control of the test above: the same look is taken where the wait is long."""

    def look() -> Signs:
        raise AssertionError("the engine was looked at")

    stream, _ = engine.vigil_of(look)
    with pytest.raises(AssertionError):
        stream.receive(timeout=60)


def test_no_sign_of_life_for_the_stall_limit_is_a_hang(engine: Engine) -> None:
    stream, _ = engine.vigil_of()
    started = time.monotonic()
    with pytest.raises(Hang, match="no frame, no processor time, nothing read"):
        stream.receive(timeout=60)
    assert STALL <= time.monotonic() - started < 20 * STALL


def test_one_that_computes_is_waited_for_until_the_deadline(engine: Engine) -> None:
    stream, _ = engine.vigil_of(computing, silence=3 * STALL)
    with pytest.raises(DeadlineExceeded, match="though it is alive") as caught:
        stream.receive(timeout=3 * STALL)
    assert not isinstance(caught.value, Hang)


def test_a_deadline_just_after_a_look_does_not_make_it_a_hang(engine: Engine) -> None:
    """In so few milliseconds nobody has used the processor for long."""
    silence = 5 * STALL / 4 + 0.005
    stream, _ = engine.vigil_of(computing, silence=silence)
    with pytest.raises(DeadlineExceeded, match="though it is alive") as caught:
        stream.receive(timeout=silence)
    assert not isinstance(caught.value, Hang)


def test_one_that_stops_computing_is_a_hang_from_then_on(engine: Engine) -> None:
    steps = itertools.chain([0, 10**9, 2 * 10**9], itertools.repeat(2 * 10**9))
    stream, _ = engine.vigil_of(lambda: Signs(next(steps), 0))
    started = time.monotonic()
    with pytest.raises(Hang):
        stream.receive(timeout=60)
    assert time.monotonic() - started >= STALL / 4 * 3 + STALL


def test_one_that_sleeps_when_the_silence_is_over_hangs(engine: Engine) -> None:
    """With `--silence` below the stall limit both are over at once."""
    stream, _ = engine.vigil_of(silence=STALL / 2)
    with pytest.raises(Hang):
        stream.receive(timeout=STALL / 2)


def test_one_that_computed_and_sleeps_when_its_time_is_over_hangs(engine: Engine) -> None:
    """Asked at the deadline is whether it still does something, not whether it once did."""
    steps = itertools.chain([0, 10**9], itertools.repeat(10**9))
    stream, _ = engine.vigil_of(lambda: Signs(next(steps), 0), silence=STALL)
    with pytest.raises(Hang):
        stream.receive(timeout=STALL)


def test_a_byte_now_and_then_does_not_prolong_a_frame(engine: Engine) -> None:
    stream, _ = engine.vigil_of(silence=2 * STALL)
    payload = iter(framed(b"x" * 100))

    def drip() -> None:
        for byte in itertools.islice(payload, 20):
            engine.writes(bytes([byte]))
            time.sleep(STALL / 5)

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(DeadlineExceeded) as caught:
        stream.receive(timeout=2 * STALL)
    thread.join()
    assert not isinstance(caught.value, Hang)  # bytes are a sign of life


def test_progress_without_end_is_not_waited_for_for_ever(engine: Engine) -> None:
    _, vigil = engine.vigil_of(silence=STALL / 4)
    vigil.enter("load")
    vigil.heard()
    time.sleep(STALL + 0.01)
    with pytest.raises(DeadlineExceeded, match=r"not done within 0\.2 s"):
        vigil.heard()


def test_a_process_that_ended_is_not_waited_for(engine: Engine) -> None:
    """Something that it left behind holds its stream: no end of file ever comes."""
    stream, _ = engine.vigil_of()
    threading.Timer(0.02, engine.ends).start()
    with pytest.raises(StreamClosed, match="the process ended"):
        stream.receive(timeout=60)


def test_the_last_frame_of_a_process_that_ended_is_read(engine: Engine) -> None:
    stream, _ = engine.vigil_of()
    engine.writes(framed(b"last words"))
    engine.ends()
    assert stream.receive(timeout=60) == b"last words"


def test_bytes_that_come_between_two_looks_at_the_descriptors_are_not_lost(engine: Engine) -> None:
    """The process wrote and ended after its pipe was looked at, before itself was."""
    _, vigil = engine.vigil_of()
    answers = iter([[(7, select.POLLIN)], [(7, select.POLLIN), (5, select.POLLIN)]])
    vigil._child = SimpleNamespace(pidfd=7)
    assert vigil._is_ready(SimpleNamespace(poll=lambda _: next(answers)), 5, 1.0)  # type: ignore[arg-type]


def test_a_chat_may_answer_as_long_as_it_likes(engine: Engine) -> None:
    _, vigil = engine.vigil_of(silence=0.01)
    vigil.enter("reply")
    time.sleep(0.05)
    vigil.heard()
    assert vigil._ends == math.inf

"""Frames survive any split, and nothing outside the bounds is waited for or allocated."""

import os
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from enginebench_protocol.errors import DeadlineExceeded, FrameError, StreamClosed
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.messages import CONTROL_FRAME_BYTES, DATA_FRAME_BYTES

PAYLOAD = b"a golden payload"
FRAME = b"\x00\x00\x00\x10" + PAYLOAD


class Pipes:
    """A stream whose incoming bytes the test writes to `sink` and whose outgoing bytes it reads from `source`."""

    def __init__(self) -> None:
        incoming, self.sink = os.pipe()
        self.source, outgoing = os.pipe()
        self.stream = FrameStream(incoming, outgoing)
        self.open = {incoming, self.sink, self.source, outgoing}

    def close(self, *fds: int) -> None:
        for fd in fds or list(self.open):
            os.close(fd)
            self.open.remove(fd)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


def write_slowly(fd: int, parts: list[bytes]) -> threading.Thread:
    def write() -> None:
        for part in parts:
            os.write(fd, part)
            time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("split", range(1, len(FRAME)))
def test_a_frame_split_anywhere_arrives_whole(pipes: Pipes, split: int) -> None:
    writer = write_slowly(pipes.sink, [FRAME[:split], FRAME[split:] + FRAME])
    assert pipes.stream.receive(timeout=5) == PAYLOAD
    assert pipes.stream.receive(timeout=5) == PAYLOAD
    writer.join()


def test_a_frame_of_single_bytes_arrives_whole(pipes: Pipes) -> None:
    writer = write_slowly(pipes.sink, [bytes([byte]) for byte in FRAME])
    assert pipes.stream.receive(timeout=5) == PAYLOAD
    writer.join()


def test_what_is_sent_is_the_length_and_the_payload(pipes: Pipes) -> None:
    pipes.stream.send(PAYLOAD)
    assert os.read(pipes.source, 100) == FRAME


@pytest.mark.parametrize("cap", [CONTROL_FRAME_BYTES, DATA_FRAME_BYTES])
@pytest.mark.parametrize("beyond", [0, -1, 1, "0", "2^31-1", "2^31", "2^31+1", "2^32-1"])
def test_only_lengths_from_one_to_the_cap_are_accepted(pipes: Pipes, cap: int, beyond: int | str) -> None:
    special = {"0": 0, "2^31-1": 2**31 - 1, "2^31": 2**31, "2^31+1": 2**31 + 1, "2^32-1": 2**32 - 1}
    length = special[beyond] if isinstance(beyond, str) else cap + beyond
    header = struct.pack(">I", length)
    if 1 <= length <= cap:
        writer = threading.Thread(target=send_all, args=(pipes.sink, header + bytes(length)))
        writer.start()
        assert len(pipes.stream.receive(cap, timeout=10)) == length
        writer.join()
        return
    os.write(pipes.sink, header)
    tracemalloc.start()
    with pytest.raises(FrameError, match=rf"frame of {length} bytes refused: allowed are 1 to {cap}"):
        pipes.stream.receive(cap, timeout=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def send_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def test_the_smallest_frame_is_one_byte(pipes: Pipes) -> None:
    os.write(pipes.sink, b"\x00\x00\x00\x01x")
    assert pipes.stream.receive(timeout=1) == b"x"


@pytest.mark.parametrize("size", [0, DATA_FRAME_BYTES + 1])
def test_nothing_outside_the_bounds_is_sent(pipes: Pipes, size: int) -> None:
    with pytest.raises(FrameError, match=f"frame of {size} bytes not sent"):
        pipes.stream.send(bytes(size))


def test_an_end_between_frames_is_a_clean_end(pipes: Pipes) -> None:
    os.write(pipes.sink, FRAME)
    pipes.close(pipes.sink)
    assert pipes.stream.receive(timeout=1) == PAYLOAD
    with pytest.raises(StreamClosed):
        pipes.stream.receive(timeout=1)


@pytest.mark.parametrize("kept", range(1, len(FRAME)))
def test_an_end_inside_a_frame_is_an_error(pipes: Pipes, kept: int) -> None:
    os.write(pipes.sink, FRAME[:kept])
    pipes.close(pipes.sink)
    with pytest.raises(FrameError, match="ended inside a frame"):
        pipes.stream.receive(timeout=1)


@pytest.mark.parametrize("arrived", [b"", FRAME[:2], FRAME[:9]])
def test_a_frame_that_does_not_complete_in_time_exceeds_the_deadline(pipes: Pipes, arrived: bytes) -> None:
    os.write(pipes.sink, arrived)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="no answer"):
        pipes.stream.receive(timeout=0.05)
    assert time.monotonic() - started >= 0.05


def test_bytes_that_keep_trickling_do_not_push_the_deadline(pipes: Pipes) -> None:
    writer = write_slowly(pipes.sink, [b"\x00\x00\x01\x00", *[b"x"] * 150])
    with pytest.raises(DeadlineExceeded):
        pipes.stream.receive(timeout=0.1)
    writer.join()


def test_a_reader_that_never_reads_exceeds_the_deadline(pipes: Pipes) -> None:
    with pytest.raises(DeadlineExceeded, match="does not read"):
        pipes.stream.send(bytes(DATA_FRAME_BYTES), timeout=0.05)


def test_a_closed_reader_is_a_closed_stream(pipes: Pipes) -> None:
    pipes.close(pipes.source)
    with pytest.raises(StreamClosed):
        pipes.stream.send(PAYLOAD, timeout=1)

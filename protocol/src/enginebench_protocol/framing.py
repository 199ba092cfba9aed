"""Frames over a pair of file descriptors: a 4-byte big-endian length, then that many bytes.

Knows nothing of messages. A length of zero or above the cap is refused before anything is allocated. Both descriptors
are made non-blocking, so that every wait can have a deadline; `timeout` is in seconds, None waits for ever. Whoever
knows more of the other side than its bytes, a parent of its child, gives the function that waits.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable

from .errors import DeadlineExceeded, FrameError, StreamClosed, Truncated
from .messages import DATA_FRAME_BYTES

Wait = Callable[[int, int, float | None, str], None]
"""wait(descriptor, poll's event, deadline by time.monotonic or None, what it means if nothing comes): returns when the
descriptor is ready, raises a ProtocolError to give up."""

_LENGTH = struct.Struct(">I")


class FrameStream:
    """Reads frames from one descriptor and writes them to another; owns neither."""

    def __init__(self, read_fd: int, write_fd: int, wait: Wait | None = None) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._own_wait = wait
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, False)

    def receive(self, cap_bytes: int = DATA_FRAME_BYTES, timeout: float | None = None) -> bytes:
        """Raises StreamClosed at a clean end, FrameError on a bad length, Truncated, DeadlineExceeded."""
        return self._frame(b"", cap_bytes, _deadline(timeout))

    def receive_if_any(self, cap_bytes: int = DATA_FRAME_BYTES) -> bytes | None:
        """The next frame, or None at once if nothing of it has arrived. Raises as `receive` does."""
        try:
            begun = os.read(self.read_fd, _LENGTH.size)
        except BlockingIOError:
            return None
        return self._frame(begun, cap_bytes, None)

    def send(self, payload: bytes, timeout: float | None = None) -> None:
        """Raises FrameError above the largest cap, StreamClosed when nobody reads, DeadlineExceeded."""
        if not 1 <= len(payload) <= DATA_FRAME_BYTES:
            raise FrameError(f"frame of {len(payload)} bytes not sent: allowed are 1 to {DATA_FRAME_BYTES}")
        deadline = _deadline(timeout)
        rest = memoryview(framed(payload))
        while rest:
            try:
                rest = rest[os.write(self.write_fd, rest) :]
            except BlockingIOError:
                self._wait(self.write_fd, select.POLLOUT, deadline, "the other side does not read")
            except BrokenPipeError:
                raise StreamClosed("the other side closed the stream") from None

    def _frame(self, begun: bytes, cap_bytes: int, deadline: float | None) -> bytes:
        header = self._read_exactly(_LENGTH.size, deadline, begun, at_boundary=True)
        (length,) = _LENGTH.unpack(header)
        if not 1 <= length <= cap_bytes:
            raise FrameError(f"frame of {length} bytes refused: allowed are 1 to {cap_bytes}")
        return self._read_exactly(length, deadline, at_boundary=False)

    def _read_exactly(self, n: int, deadline: float | None, begun: bytes = b"", *, at_boundary: bool) -> bytes:
        data = bytearray(begun)
        while len(data) < n:
            try:
                chunk = os.read(self.read_fd, n - len(data))
            except BlockingIOError:
                self._wait(self.read_fd, select.POLLIN, deadline, "no answer")
                continue
            if not chunk:
                if at_boundary and not data:
                    raise StreamClosed("the other side closed the stream")
                raise Truncated(f"the stream ended inside a frame: {len(data)} of {n} bytes")
            data += chunk
        return bytes(data)

    def _wait(self, fd: int, events: int, deadline: float | None, what: str) -> None:
        (self._own_wait or _wait)(fd, events, deadline, what)


def framed(payload: bytes) -> bytes:
    """The bytes of one frame."""
    return _LENGTH.pack(len(payload)) + payload


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _wait(fd: int, events: int, deadline: float | None, what: str) -> None:
    poll = select.poll()
    poll.register(fd, events)
    remaining = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    if not poll.poll(remaining):
        raise DeadlineExceeded(f"{what} within the time allowed")

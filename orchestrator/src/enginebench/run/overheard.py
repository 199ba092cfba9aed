"""For `--debug`: the frames between us and an engine, and what it writes to stderr, a line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
from enginebench_protocol.framing import FrameStream, Wait
from enginebench_protocol.messages import DATA_FRAME_BYTES

from enginebench.plain_text import printable
from enginebench.store.anonymous import without_login

Tell = Callable[[str], None]
LONGEST = 400


class OverheardStream(FrameStream):
    """Tells of each frame after it has passed."""

    def __init__(self, read_fd: int, write_fd: int, tell: Tell, wait: Wait | None = None) -> None:
        super().__init__(read_fd, write_fd, wait)
        self._tell = tell

    def receive(self, cap_bytes: int = DATA_FRAME_BYTES, timeout: float | None = None) -> bytes:
        payload = super().receive(cap_bytes, timeout)
        self._tell(f"engine > {shown(payload)}")
        return payload

    def send(self, payload: bytes, timeout: float | None = None) -> None:
        super().send(payload, timeout)
        self._tell(f"       < {shown(payload)}")


def stream_of(read_fd: int, write_fd: int, tell: Tell | None, wait: Wait | None = None) -> FrameStream:
    return FrameStream(read_fd, write_fd, wait) if tell is None else OverheardStream(read_fd, write_fd, tell, wait)


def shown(payload: bytes) -> str:
    """The type of the message and its fields; packed numbers as their count of bytes."""
    try:
        message = msgpack.unpackb(payload)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        return f"{len(payload)} bytes that are no message"
    words = [f"{name}={_field(value)}" for name, value in message.items() if name != "type"]
    return without_login(printable(f"{message.get('type')} {' '.join(words)}"))[:LONGEST]


def _field(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)

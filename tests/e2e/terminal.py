"""A program on a terminal of its own: what it draws, as its user would see it, and keys sent to it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import pyte

_OVERHEARD_BYTES = 4096
"""What is searched of what came: a pattern is found in the read that ends it."""


class Terminal:
    """Killed when the context is left, if it still runs."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], rows: int = 30, columns: int = 100
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - the tests have one thread
        )
        os.close(slave)
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._screen.write_process_input = self.send
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """What has scrolled away and what is on the screen, without the blanks at the ends of lines."""
        gone = ["".join(row[x].data for x in range(self._screen.columns)) for row in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*gone, *self._screen.display])

    def send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def expect(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Wait until the text has this, ^ and $ at line ends."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if found := re.search(pattern, self.text, re.MULTILINE):
                return found
            self._read(0.1)
        raise AssertionError(f"no {pattern!r} after {timeout} s in:\n{self.text}")

    def overhear(self, pattern: bytes, timeout: float = 30.0) -> re.Match[bytes]:
        """Wait until this came, and draw only then: drawing takes milliseconds of a processor for each read."""
        end, heard = time.monotonic() + timeout, bytearray()
        while time.monotonic() < end:
            if select.select([self._master], [], [], 0.1)[0]:
                heard += os.read(self._master, 65536)
                if found := re.search(pattern, heard[-_OVERHEARD_BYTES:]):
                    self._stream.feed(bytes(heard))
                    return found
        raise AssertionError(f"no {pattern!r} after {timeout} s in:\n{heard.decode(errors='replace')}")

    def end(self, timeout: float = 30.0) -> int:
        """The exit code, once all output was read."""
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            self._read(0.1)
        while self._read(0.1):
            pass
        return self.process.wait(0.1)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # nobody holds the other end any more
            return False
        self._stream.feed(data)
        return bool(data)

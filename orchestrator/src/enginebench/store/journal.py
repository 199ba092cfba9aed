"""The append-only journal of a run: what was measured survives the death of the orchestrator.

One record per line: length and CRC-32 of the payload as eight hex digits each, then the payload as JSON. CRC-32 is
zlib's (IEEE 802.3); CRC-32C would need a dependency and finds no more in records of this size. It guards against torn
writes and stray edits, not against forgery. Every append is on the disk when it returns; after one that failed there
is no other. Who holds a journal open has it alone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from enginebench.errors import StorageError, UsageError

from . import files
from .record import Launch, Resumed

SCHEMA_VERSION = 1
"""Of the records and of the result made from them; a newer one is refused."""

_PREFIX_BYTES = 18  # "LLLLLLLL CCCCCCCC "


@dataclass(frozen=True)
class Damage:
    """A record that cannot be believed. Each is one line; line 1 is the header."""

    number: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.reason}"


@dataclass
class Journalled:
    """What a journal still says: every record whose checksum holds, and the numbers of those left out."""

    header: dict[str, Any]
    launches: list[Launch] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    resumed: list[Resumed] = field(default_factory=list)
    sound_bytes: int = 0
    """Where the last record ends that can be believed."""

    @property
    def pid(self) -> int | None:
        """The process that wrote it last; None if an older version did."""
        return self.resumed[-1].pid if self.resumed else self.header.get("pid")


class Journal:
    """Open for appending, and locked. Use as a context manager."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size = size
        self._failed = False

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> Journal:
        """A new journal whose first record is `header`, the schema version and our pid.

        Raises FileExistsError, StorageError, and UsageError if another process took it in between.
        """
        try:
            descriptor = files.create(path)
        except FileExistsError:
            raise
        except OSError as error:
            raise files.failed(error, f"make a {path.name}", path.parent) from error
        try:
            if not files.lock(descriptor):
                raise UsageError(f"another enginebench is at work in {path.parent}: wait until it has ended")
            journal = cls(path, descriptor, 0)
            journal._append({"schema_version": SCHEMA_VERSION, "pid": os.getpid(), **header})
            journal._sync_name()
        except BaseException:
            files.close(descriptor)
            raise
        return journal

    @classmethod
    def reopen(cls, path: Path) -> tuple[Journal, Journalled]:
        """Cut a torn tail and go on behind it.

        Raises UsageError if the header cannot be read, or if another process has the journal; StorageError.
        """
        descriptor = files.reopen(path)
        try:
            if not files.lock(descriptor):
                raise UsageError(
                    f"another enginebench{_pid(path)} is at work in {path.parent}: wait until it has ended"
                )
            content = read_journal(path)
            journal = cls(path, descriptor, content.sound_bytes)
            journal._cut_tail()
        except BaseException:
            files.close(descriptor)
            raise
        return journal, content

    def append(self, record: Launch | Resumed) -> None:
        """Returns when the record is on the disk. Raises StorageError where that is not certain."""
        self._append(record)

    def close(self) -> None:
        """May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            files.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, record: object) -> None:
        if self._failed:
            raise StorageError(f"nothing more is written to {self.path}: a write to it has failed")
        line = _framed(msgspec.json.encode(record))
        try:
            files.write_all(self._descriptor, line)
            files.sync(self._descriptor)
        except OSError as error:
            # After a failed fsync the kernel forgets what it could not write: nothing behind it would be safe.
            self._failed = True
            with contextlib.suppress(OSError):
                files.truncate(self._descriptor, self._size)
            raise files.failed(error, f"write to the {self.path.name}", self.path.parent) from error
        self._size += len(line)

    def _sync_name(self) -> None:
        try:
            files.sync_folder(self.path.parent)
        except OSError as error:
            raise files.failed(error, f"make a {self.path.name}", self.path.parent) from error

    def _cut_tail(self) -> None:
        if os.fstat(self._descriptor).st_size == self._size:
            return
        try:
            files.truncate(self._descriptor, self._size)
            files.sync(self._descriptor)
        except OSError as error:
            raise files.failed(error, f"cut the {self.path.name}", self.path.parent) from error


def read_journal(path: Path) -> Journalled:
    """Raises UsageError if there is no readable header, or if a newer version wrote it."""
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    try:
        header: dict[str, Any] = msgspec.json.decode(_payload(lines[0]), type=dict[str, Any])
    except (IndexError, ValueError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path.name} is no journal, or its first record is damaged ({error}): run again") from None
    refuse_newer(header.get("schema_version"), path.name)
    content = Journalled(header, sound_bytes=len(lines[0]) + 1)
    position = content.sound_bytes
    for number, line in enumerate(lines[1:], start=2):
        position += len(line) + 1
        try:
            _take(content, line)
            content.sound_bytes = position
        except (ValueError, msgspec.MsgspecError) as error:
            content.damaged.append(Damage(number, str(error)))
    if torn:
        content.damaged.append(Damage(len(lines) + 1, "torn: the write was cut short"))
    return content


def refuse_newer(version: object, name: str) -> None:
    """Raises UsageError unless `version` is one that this program can read."""
    if type(version) is not int or version < 1:
        raise UsageError(f"{name} has no schema version: it was not written by enginebench")
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{name} has schema version {version}, this enginebench reads up to {SCHEMA_VERSION}: update enginebench"
        )


def resumed_now(launches: int, remarks: list[str]) -> Resumed:
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return Resumed(resumed_at=date, pid=os.getpid(), launches=launches, remarks=remarks)


def _take(content: Journalled, line: bytes) -> None:
    """Raises ValueError or MsgspecError for what is no record."""
    payload = _payload(line)
    if payload.startswith(b'{"resumed_at":'):  # fields are written in their order
        content.resumed.append(msgspec.json.decode(payload, type=Resumed))
    else:
        content.launches.append(msgspec.json.decode(payload, type=Launch))


def _pid(path: Path) -> str:
    with contextlib.suppress(UsageError):
        if pid := read_journal(path).pid:
            return f" (pid {pid})"
    return ""


def _framed(payload: bytes) -> bytes:
    return b"%08x %08x %s\n" % (len(payload), zlib.crc32(payload), payload)


def _payload(line: bytes) -> bytes:
    """Raises ValueError unless length and checksum in front are those of the rest."""
    payload = line[_PREFIX_BYTES:]
    if line + b"\n" == _framed(payload):
        return payload
    if line[:8] != b"%08x" % len(payload):
        raise ValueError(f"torn or edited: its {len(payload)} bytes are not the number in front")
    raise ValueError("edited: the checksum does not hold")

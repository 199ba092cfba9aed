"""The append-only journal of a run: what was measured survives the death of the orchestrator.

One record per line: length and CRC-32 of the payload as eight hex digits each, then the payload as JSON. CRC-32 is
zlib's (IEEE 802.3); CRC-32C would need a dependency and finds no more in records of this size. It guards against torn
writes and stray edits, not against forgery. Every append is on the disk when it returns.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from enginebench.errors import UsageError

from .record import Launch

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


@dataclass(frozen=True)
class Journalled:
    """What a journal still says: every record whose checksum holds, and the numbers of those left out."""

    header: dict[str, Any]
    launches: list[Launch]
    damaged: list[Damage] = field(default_factory=list)


class Journal:
    """Open for appending. Use as a context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> Journal:
        """A new journal whose first record is `header` and the schema version. Raises FileExistsError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        journal = cls(path, descriptor)
        journal._append({"schema_version": SCHEMA_VERSION, **header})
        sync_folder(path.parent)
        return journal

    @classmethod
    def reopen(cls, path: Path) -> tuple[Journal, Journalled]:
        """Cut a torn tail and go on behind it. Raises UsageError if the header cannot be read."""
        content = read_journal(path)
        data = path.read_bytes()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if not data.endswith(b"\n"):
            os.ftruncate(descriptor, data.rfind(b"\n") + 1)
            os.fsync(descriptor)
        return cls(path, descriptor), content

    def append(self, launch: Launch) -> None:
        """Returns when the record is on the disk."""
        self._append(launch)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, record: object) -> None:
        line = memoryview(_framed(msgspec.json.encode(record)))
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)


def read_journal(path: Path) -> Journalled:
    """Raises UsageError if there is no readable header, or if a newer version wrote it."""
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    try:
        header: dict[str, Any] = msgspec.json.decode(_payload(lines[0]), type=dict[str, Any])
    except (IndexError, ValueError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path.name} is no journal, or its first record is damaged ({error}): run again") from None
    refuse_newer(header.get("schema_version"), path.name)
    launches, damaged = _launches(lines[1:])
    if torn:
        damaged.append(Damage(len(lines) + 1, "torn: the write was cut short"))
    return Journalled(header, launches, damaged)


def refuse_newer(version: object, name: str) -> None:
    """Raises UsageError unless `version` is one that this program can read."""
    if type(version) is not int or version < 1:
        raise UsageError(f"{name} has no schema version: it was not written by enginebench")
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{name} has schema version {version}, this enginebench reads up to {SCHEMA_VERSION}: update enginebench"
        )


def sync_folder(folder: Path) -> None:
    """Make a new name in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _launches(lines: list[bytes]) -> tuple[list[Launch], list[Damage]]:
    launches: list[Launch] = []
    damaged: list[Damage] = []
    for number, line in _numbered(lines):
        try:
            launches.append(msgspec.json.decode(_payload(line), type=Launch))
        except (ValueError, msgspec.MsgspecError) as error:
            damaged.append(Damage(number, str(error)))
    return launches, damaged


def _numbered(lines: list[bytes]) -> Iterator[tuple[int, bytes]]:
    return enumerate(lines, start=2)


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

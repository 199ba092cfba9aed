"""A control group of an engine's own, whose peak of memory the kernel keeps (cgroup v2, memory.peak).

It counts what sampling misses, and also page cache and kernel memory that the engine was first to touch. Only where a
group with the memory controller was delegated to us; nothing is changed in groups that exist. Version 1 is not used.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from .noise import PROC, first_line, lines_of


class NoCgroup(Exception):
    """No group can be made here; the message says why."""


class MemoryCgroup:
    """One group. What a process touched before it was taken in stays with its old group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, proc: Path = PROC) -> MemoryCgroup:
        """Below our own group, or beside it. Raises NoCgroup."""
        for parent in _candidates(proc):
            if "memory" not in (first_line(parent / "cgroup.subtree_control") or "").split():
                continue
            folder = parent / f"enginebench-{os.getpid()}-{secrets.token_hex(4)}"
            with contextlib.suppress(OSError):
                folder.mkdir()
                return cls(folder)
        raise NoCgroup("no control group with the memory controller is delegated to us")

    def take_in(self, pid: int) -> None:
        """The process; what it spawns from now on follows. Raises NoCgroup; the group is gone then."""
        try:
            (self.folder / "cgroup.procs").write_text(f"{pid}\n")
        except OSError as error:
            self.close()
            raise NoCgroup(f"the engine cannot be moved to its control group: {error.strerror}") from None

    def peak_bytes(self) -> int | None:
        """None where the kernel does not keep it (memory.peak came with Linux 5.19)."""
        text = first_line(self.folder / "memory.peak")
        return int(text) if text else None

    def oom_kills(self) -> int:
        """Of its processes; 0 too where the kernel does not tell."""
        return oom_kills_of(self.folder) or 0

    def close(self) -> None:
        """The group of a process that is gone is empty, and can be removed; what is in it still is killed."""
        with contextlib.suppress(OSError):
            if (kill := self.folder / "cgroup.kill").exists():  # it came with Linux 5.14
                kill.write_text("1\n")
            self.folder.rmdir()


def oom_kills_of(folder: Path) -> int | None:
    """Processes of a group, and of those below it, that the kernel killed because memory ran out."""
    rows = (line.split() for line in lines_of(folder / "memory.events"))
    return next((int(row[1]) for row in rows if row[:1] == ["oom_kill"]), None)


def own_group(proc: Path = PROC) -> Path | None:
    """Our group of version 2; None where none is mounted."""
    with contextlib.suppress(NoCgroup):
        return _candidates(proc)[0]
    return None


def _candidates(proc: Path) -> list[Path]:
    """Our own group and the one above. Raises NoCgroup without a mounted hierarchy of version 2."""
    mount = next((words for line in lines_of(proc / "self/mountinfo") if _is_version_2(words := line.split())), None)
    own = [line.removeprefix("0::") for line in lines_of(proc / "self/cgroup") if line.startswith("0::")]
    if mount is None or not own:
        raise NoCgroup("cgroup version 2 is not mounted")
    root, folder = mount[3], Path(mount[4])
    group = folder / own[0].removeprefix(root).strip("/")
    return [group, group.parent] if group != folder else [group]


def _is_version_2(words: list[str]) -> bool:
    """proc(5): … root mount-point options … - type source options."""
    return "-" in words and words[words.index("-") + 1] == "cgroup2"

"""Ends what a killed orchestrator leaves behind: a second process that waits for a pipe to close.

The kernel's parent-death signal reaches an engine alone. What is below it (compilers, servers, ranks), in a session of
its own too, is known by its group, by the run's folder in its environment, or by the engine's stderr, which it holds.
Then the folder is removed. Runs alone, with the standard library only: `python -I watchdog.py FOLDER`, fed with lines
"+PGID" and "-PGID". At its start it does the same for runs that were killed together with their watchdogs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PREFIX = "enginebench-run-"
"""Of a run's folder. Its orchestrator holds a lock on it, which the kernel takes back from the dead."""
HELPERS_SECONDS = 1.0
"""Of the processes below a killed engine: some only unlink its shared memory, once they notice that it is gone."""
CALM_SECONDS, GIVE_UP_SECONDS = 0.3, 4.0
YOUNG_SECONDS = 60.0
"""A folder is made before it is locked."""
_IPC_RMID = 0  # linux/ipc.h
PROC = Path("/proc")


class Marks:
    """By what the processes of a run are known."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder).encode()
        self._spared = {os.getpid(), os.getppid()}
        """The orchestrator may live, and reads the other end of the pipes; once it is dead this is its reaper."""
        self.groups: set[int] = set()
        self.pipes: dict[int, str] = {}
        """Group → the pipe that is its leader's stderr."""

    def guard(self, group: int) -> None:
        self.groups.add(group)
        with contextlib.suppress(OSError):
            target = str((PROC / str(group) / "fd" / "2").readlink())
            if target.startswith("pipe:"):  # a terminal has other users
                self.pipes[group] = target

    def release(self, group: int) -> None:
        self.groups.discard(group)
        self.pipes.pop(group, None)

    def marked(self) -> set[int]:
        """Whoever lives and belongs to the run; what belongs to other users cannot be read."""
        return {pid for pid in living() if pid not in self._spared and self._has(pid)}

    def _has(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            if os.getpgid(pid) in self.groups or self.folder in (PROC / str(pid) / "environ").read_bytes():
                return True
            return not set(self.pipes.values()).isdisjoint(_descriptors(pid))
        return False


def living() -> Iterator[int]:
    """Process ids without zombies."""
    for entry in PROC.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                yield int(entry.name)


def _descriptors(pid: int) -> set[str]:
    found = set()
    for entry in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return found


def end(marks: Marks) -> None:
    """Engines at once, then all that is left, until nobody new has come for a while."""
    _kill(marks.groups)
    began = calm_since = time.monotonic()
    while (now := time.monotonic()) - began < GIVE_UP_SECONDS:
        left = marks.marked()
        if left:
            calm_since = now
        elif now - calm_since > CALM_SECONDS:
            break
        if now - began > HELPERS_SECONDS:
            _kill(left)
        time.sleep(0.05)
    for group in marks.groups:
        remove_segments(group)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def remove_segments(creator: int) -> None:
    """System V shared memory that this process made: it stays until it is removed, or the machine restarts."""
    with contextlib.suppress(OSError):
        lines = (PROC / "sysvipc" / "shm").read_text().splitlines()
        names = lines[0].split()
        for line in lines[1:]:
            segment = dict(zip(names, map(int, line.split()), strict=True))
            if segment["cpid"] == creator and segment["nattch"] == 0:
                ctypes.CDLL(None).shmctl(segment["shmid"], _IPC_RMID, None)


def remove_control_groups(orchestrator: int, proc: Path = PROC) -> None:
    """What machine/cgroup.py made for it, below or beside the group that we have in common, and all that is in it."""
    words = [line.split() for line in (proc / "self" / "mountinfo").read_text().splitlines()]
    mount = next((w for w in words if w[w.index("-") + 1] == "cgroup2"), None)
    own = [line[3:] for line in (proc / "self" / "cgroup").read_text().splitlines() if line.startswith("0::")]
    if mount is None or not own:
        return
    group = Path(mount[4]) / own[0].removeprefix(mount[3]).strip("/")
    for folder in [*group.glob(f"enginebench-{orchestrator}-*"), *group.parent.glob(f"enginebench-{orchestrator}-*")]:
        with contextlib.suppress(OSError):
            (folder / "cgroup.kill").write_text("1")
            time.sleep(0.05)
            folder.rmdir()


def end_abandoned(folders: Path) -> None:
    """Runs whose orchestrator and watchdog were killed at once: whoever was told their folders, and the folders."""
    for folder in folders.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_abandoned(folder):
                end(Marks(folder))
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or time.time() - facts.st_mtime < YOUNG_SECONDS:
        return False
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def main(folder: Path) -> None:
    marks, orchestrator = Marks(folder), os.getppid()
    end_abandoned(folder.parent)
    for line in sys.stdin:
        group = int(line[1:])
        (marks.guard if line[0] == "+" else marks.release)(group)
    if marks.groups or folder.exists():  # an orderly end leaves neither
        end(marks)
        remove_control_groups(orchestrator)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    main(Path(sys.argv[1]))

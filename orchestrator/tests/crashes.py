"""Every way in which the disk may end a run: a loss of power in each operation, and each operation failing.

After each it is looked at what is there, and the run is resumed: it has to end with the same result as one that nothing
ended. Findings are sentences; there should be none.
"""

from __future__ import annotations

import copy
import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from enginebench.errors import StorageError, UsageError
from enginebench.store import result
from enginebench.store.journal import read_journal
from enginebench.store.record import Launch
from enginebench.store.result import read_result
from enginebench.store.run_folder import JOURNAL, RESULT, run_names

from .faulty_disk import Disk, Model, Tree, planted
from .small_run import SmallRun, complaint, essence

FAULTS = {
    "ENOSPC": (errno.ENOSPC, ("create", "scratch", "write", "rename", "make"), True),
    "EIO": (errno.EIO, (), False),
    "EIO from then on": (errno.EIO, (), True),
}
"""Name → errno, the operations that it meets (none: all), and whether it lasts."""


@dataclass
class Tally:
    """`states`: different folders that were looked at. `anew`: nothing had been measured, so nothing is resumed."""

    operations: int = 0
    tried: int = 0
    states: int = 0
    resumed: int = 0
    anew: int = 0
    lost: int = 0
    half: int = 0
    findings: list[str] = field(default_factory=list)

    def note(self, what: str | None, where: str) -> None:
        if what is None:
            return
        self.lost += what.startswith("lost")
        self.half += what.startswith("half")
        self.findings.append(f"{where}: {what}")

    def add(self, other: Tally) -> None:
        for name in ("operations", "tried", "states", "resumed", "anew", "lost", "half"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.findings += other.findings


class Crashes:
    """`small`: the run that is ended. `scratch`: an empty folder. What was looked at is not looked at again."""

    def __init__(self, small: SmallRun, scratch: Path) -> None:
        self.small, self.scratch = small, scratch
        self._numbers = itertools.count()
        self._seen: set[Any] = set()
        with pytest.MonkeyPatch.context() as patch:
            root = planted({}, self._place())
            disk = Disk(root).install(patch)
            folder = small.run(root / "runs")
        self.operations = len(disk.log)
        self.expected = essence(read_result(folder / RESULT, sealed=True))
        self.every: list[Launch] = list(small.returned)
        small.patch.setattr(result, "schema_fault", lambda _: None)  # it was asked once; now results are compared

    def _place(self) -> Path:
        return self.scratch / str(next(self._numbers))

    def _act(self, root: Path) -> Path:
        """Run, or go on with what is there."""
        names = run_names(root / "runs")
        return self.small.resume(root / "runs" / names[0]) if names else self.small.run(root / "runs")

    def loss_of_power(self, start: Tree | None = None, where: str = "power") -> tuple[Tally, list[Tree]]:
        """In every operation of a run, or of resuming `start`. Returns also what it left that can be resumed."""
        root = planted(start or {}, self._place())
        before, disk, marks = Model(root), Disk(root), list[int]()
        self.small.returned = self._safe_at(start, root)
        self.small.on_return = lambda: marks.append(len(disk.log))
        n_before = len(self.small.returned)
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch)
            self._act(root)
        tally, left = Tally(operations=len(disk.log)), list[Tree]()
        for operations in range(1, len(disk.log) + 2):
            n_safe = n_before + sum(mark < operations for mark in marks)
            name = disk.log[operations - 1][0] if operations <= len(disk.log) else "end"
            for tree in disk.after(copy.deepcopy(before), operations).trees():
                tally.tried += 1
                self._look(tree, n_safe, tally, f"{where}, operation {operations} ({name})", left)
        return tally, left

    def _safe_at(self, start: Tree | None, root: Path) -> list[Launch]:
        """What stands in a journal is safe from then on."""
        names = run_names(root / "runs") if start else []
        return read_journal(root / "runs" / names[0] / JOURNAL).launches if names else []

    def _look(self, tree: Tree, n_safe: int, tally: Tally, where: str, left: list[Tree]) -> None:
        key = frozenset(tree.items())
        if (key, n_safe) in self._seen:
            return
        is_new = not any((key, n) in self._seen for n in range(len(self.every) + 1))
        self._seen.add((key, n_safe))
        root = planted(tree, self._place())
        tally.states += 1
        tally.note(self._complaint(root, self.every[:n_safe]), where)
        if is_new:
            n_resumed = tally.resumed
            self._resume(root, n_safe, tally, where)
            left += [tree] if tally.resumed > n_resumed else []

    def _complaint(self, root: Path, safe: list[Launch]) -> str | None:
        folders = [path for path in (root / "runs").glob("*") if path.is_dir()]
        if not folders:
            return "lost: the folder of the run" if safe else None
        return complaint(folders[0], safe, self.every, self.expected)

    def _resume(self, root: Path, n_safe: int, tally: Tally, where: str) -> None:
        self.small.on_return = lambda: None
        folders = sorted((root / "runs").glob("*"))
        try:
            folder = self.small.resume(folders[0]) if folders else None
        except UsageError as error:
            tally.anew += not n_safe
            tally.note(f"lost: {error}" if n_safe else None, where)
            return
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            tally.note(f"not resumed: {type(error).__name__}: {error}", where)
            return
        if folder is None:
            tally.anew += 1
            return
        tally.resumed += 1
        tally.note(self._difference(folder), where)

    def _difference(self, folder: Path) -> str | None:
        content = read_journal(folder / JOURNAL)
        launches = content.launches
        if content.damaged:
            return f"half: {content.damaged[0]} is in the journal to stay"
        if [launch.place for launch in launches] != [launch.place for launch in self.every]:
            return f"resumed to {len(launches)} launches, not {len(self.every)}"
        if essence(read_result(folder / RESULT, sealed=True)) != self.expected:
            return "resumed to another result"
        return complaint(folder, self.every, self.every, self.expected)

    def failure(self, fault: str, number: int) -> Tally:
        """Operation `number` fails, in a run of its own."""
        error, meets, lasts = FAULTS[fault]
        root = self._place()
        root.mkdir()

        def failing(at: int, name: str) -> int | None:
            is_now = at >= number if lasts else at == number
            return error if is_now and (not meets or name in meets) else None

        before, disk, tally = Model(root), Disk(root, failing), Tally(tried=1)
        where = f"{fault} at operation {number + 1}"
        self.small.returned, self.small.on_return = [], lambda: None
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch)
            try:
                self.small.run(root / "runs")
                tally.note(None if self._never_met(disk, failing) else "not noticed", where)
            except StorageError as told:
                tally.note(None if os.strerror(error) in str(told) else f"not told: {told}", where)
            except Exception as other:  # noqa: BLE001
                tally.note(f"ended with {type(other).__name__}: {other}", where)
        safe = list(self.small.returned)
        tally.note(self._complaint(root, safe), where)
        left = list[Tree]()
        for tree in disk.after(before, len(disk.log) + 1).trees():
            self._look(tree, len(safe), tally, f"{where}, then power", left)
        self._resume(root, len(safe), tally, where)
        return tally

    def _never_met(self, disk: Disk, failing: Callable[[int, str], int | None]) -> bool:
        return all(failing(at, name) is None for at, (name, _) in enumerate(disk.log))

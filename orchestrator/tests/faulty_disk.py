"""A disk in the place of `store.files`: it fails where it is told to, and knows what a loss of power may leave.

It works on real files, syncs nothing, and keeps a log of what was asked of it. From any beginning of the log follow the
trees that a file system may show after a loss of power then (as ALICE does, Pillai et al., OSDI 2014). What was synced
is there. Of what was not, anything may be: nothing, a beginning, zeros in its place, a later part without an earlier
one; and each name that was made, changed or removed since its folder was synced is there or not, for itself.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginebench.store import files

OPERATIONS = (
    "create", "reopen", "scratch", "write", "sync", "truncate", "rename", "remove", "make", "sync_folder",
)  # fmt: skip
TAKING_SPACE = ("create", "scratch", "write", "rename", "make")

Tree = dict[str, bytes | None]
"""Path below the root → content; None: a folder."""
Names = dict[str, int | None]
"""Of one folder: name → number of a file; None: a folder."""
Change = tuple[str, str, int | None]
"""Of one folder: (name that goes, name that comes, what it is then); "" for neither."""
Effect = tuple[Any, ...]
"""Name of a method of `Model`, and its arguments."""


def changed(names: Names, change: Change) -> Names:
    old, new, number = change
    kept = {name: found for name, found in names.items() if name != old}
    return {**kept, new: number} if new else kept


def written(data: bytes, at: int, new: bytes | None) -> bytes:
    """`new` None: cut or extended to `at`."""
    before = data[:at].ljust(at, b"\0")
    return before if new is None else before + new + data[at + len(new) :]


@dataclass
class File:
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """As `written` takes it."""
    failed: bool = False
    """A sync has failed: the kernel holds what was pending for clean, so that no later one saves it."""

    def sync(self) -> None:
        if not self.failed:
            for change in self.pending:
                self.durable = written(self.durable, *change)
            self.pending = []

    def may_hold(self) -> list[bytes]:
        data = self.durable
        found = {data: None}
        for at, new in self.pending:
            if new is not None:
                half = len(new) // 2
                torn = (new[:1], new[:half], new[:-1], bytes(len(new)), bytes(half) + new[half:])
                found |= dict.fromkeys(written(data, at, part) for part in torn)
            data = written(data, at, new)
            found[data] = None
        return list(found)


class Model:
    """What is on the disk for certain, and what may be. In the beginning all that is below `root` is."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.files: dict[int, File] = {}
        self.names: dict[str, Names] = {self.root: {}}
        """Folder → what is in it, as the kernel shows it now."""
        self.durable: dict[str, Names] = {}
        self.pending: dict[str, list[Change]] = {}
        for number, path in enumerate(sorted(root.rglob("*"))):
            if path.is_dir():
                self.names[str(path)] = {}
            else:
                self.files[number] = File(path.read_bytes())
            self.names[str(path.parent)][path.name] = None if path.is_dir() else number
        self.durable |= {folder: dict(names) for folder, names in self.names.items()}

    def make(self, folder: str, name: str) -> None:
        self.names[f"{folder}/{name}"], self.durable[f"{folder}/{name}"] = {}, {}
        self._change(folder, ("", name, None))

    def create(self, folder: str, name: str) -> None:
        number = len(self.files) + 1000
        self.files[number] = File()
        self._change(folder, ("", name, number))

    def remove(self, folder: str, name: str) -> None:
        self._change(folder, (name, "", None))

    def rename(self, folder: str, old: str, new: str) -> None:
        self._change(folder, (old, new, self.names[folder][old]))

    def _change(self, folder: str, change: Change) -> None:
        self.names[folder] = changed(self.names[folder], change)
        self.pending.setdefault(folder, []).append(change)

    def write(self, folder: str, name: str, at: int, data: bytes | None) -> None:
        self._file(folder, name).pending.append((at, data))

    def sync(self, folder: str, name: str) -> None:
        self._file(folder, name).sync()

    def lose(self, folder: str, name: str) -> None:
        self._file(folder, name).failed = True

    def sync_folder(self, folder: str) -> None:
        self.durable[folder], self.pending[folder] = dict(self.names[folder]), []

    def _file(self, folder: str, name: str) -> File:
        number = self.names[folder][name]
        assert number is not None
        return self.files[number]

    def trees(self) -> list[Tree]:
        """Each that may be found after a loss of power now."""
        folders = [[(folder, shown) for shown in self._may_show(folder)] for folder in self.names]
        found: dict[tuple[Any, ...], Tree] = {}
        for names in map(dict, itertools.product(*folders)):
            for tree in self._filled(names):
                found[tuple(sorted(tree.items(), key=lambda item: item[0]))] = tree
        return list(found.values())

    def _may_show(self, folder: str) -> list[Names]:
        found: list[Names] = []
        changes = self.pending.get(folder, [])
        for kept in itertools.product([False, True], repeat=len(changes)):
            names = self.durable[folder]
            for change in itertools.compress(changes, kept):
                names = changed(names, change)
            found += [] if names in found else [names]
        return found

    def _filled(self, folders: dict[str, Names]) -> Iterator[Tree]:
        places = dict(self._walk(folders, self.root))
        numbers = sorted({number for number in places.values() if number is not None})
        for contents in itertools.product(*(self.files[number].may_hold() for number in numbers)):
            held = dict(zip(numbers, contents, strict=True))
            yield {path: None if number is None else held[number] for path, number in places.items()}

    def _walk(self, folders: dict[str, Names], folder: str) -> Iterator[tuple[str, int | None]]:
        for name, number in folders[folder].items():
            yield f"{folder}/{name}".removeprefix(f"{self.root}/"), number
            if number is None:
                yield from self._walk(folders, f"{folder}/{name}")


def planted(tree: Tree, root: Path) -> Path:
    root.mkdir(parents=True)
    for name, content in sorted(tree.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)
    return root


class Disk:
    """`fault(number of the operation, its name)`: the errno that it raises, or None. All is below `root`."""

    def __init__(self, root: Path, fault: Callable[[int, str], int | None] = lambda number, name: None) -> None:
        self.root = root
        self.log: list[tuple[str, list[Effect]]] = []
        """Of each operation its name and what it changed."""
        self._fault = fault
        self._paths: dict[int, Path] = {}
        """Of descriptors."""
        self._is_full = False
        self._real = {name: getattr(files, name) for name in OPERATIONS}

    def install(self, monkeypatch: Any) -> Disk:
        for name in OPERATIONS:
            monkeypatch.setattr(files, name, self._operation(name))
        return self

    def after(self, before: Model, operations: int) -> Model:
        """`before`: of the beginning. The last operation is under way: a sync has no effect yet, others may have."""
        for number, (name, effects) in enumerate(self.log[:operations], start=1):
            if number < operations or not name.startswith("sync"):
                for method, *arguments in effects:
                    getattr(before, method)(*arguments)
        return before

    def _operation(self, name: str) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            number, effects = len(self.log), list[Effect]()
            self.log.append((name, effects))
            fault = self._fault(number, name)
            if name == "write":
                return self._write(fault, effects, *arguments)
            if fault is not None:
                effects += [("lose", *self._place(arguments[0]))] if name == "sync" else []
                raise OSError(fault, os.strerror(fault))
            effects += getattr(self, f"_{name}")(*arguments)
            result = None if name.startswith("sync") else self._real[name](*arguments)
            if name in ("create", "reopen", "scratch"):
                self._paths[result] = arguments[0]
            return result

        return called

    def _write(self, fault: int | None, effects: list[Effect], descriptor: int, data: memoryview) -> int:
        """A disk that is full takes half of what it is given, and then nothing."""
        if fault == errno.ENOSPC and not self._is_full:
            self._is_full, data = True, data[: max(1, len(data) // 2)]
        elif fault is not None:
            raise OSError(fault, os.strerror(fault))
        at = os.fstat(descriptor).st_size
        taken: int = self._real["write"](descriptor, data)
        effects.append(("write", *self._place(descriptor), at, bytes(data[:taken])))
        return taken

    def _place(self, descriptor: int) -> tuple[str, str]:
        path = self._paths[descriptor]
        return str(path.parent), path.name

    def _create(self, path: Path) -> list[Effect]:
        return [("create", str(path.parent), path.name)]

    def _reopen(self, path: Path) -> list[Effect]:
        return []

    def _scratch(self, path: Path) -> list[Effect]:
        return [("write", str(path.parent), path.name, 0, None)] if path.exists() else self._create(path)

    def _sync(self, descriptor: int) -> list[Effect]:
        return [("sync", *self._place(descriptor))]

    def _truncate(self, descriptor: int, size: int) -> list[Effect]:
        return [("write", *self._place(descriptor), size, None)]

    def _rename(self, old: Path, new: Path) -> list[Effect]:
        return [("rename", str(old.parent), old.name, new.name)]

    def _remove(self, path: Path) -> list[Effect]:
        return [("remove", str(path.parent), path.name)] if path.exists() else []

    def _make(self, folder: Path) -> list[Effect]:
        return [("make", str(folder.parent), folder.name)]

    def _sync_folder(self, folder: Path) -> list[Effect]:
        return [("sync_folder", str(folder))]

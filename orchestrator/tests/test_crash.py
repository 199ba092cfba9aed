"""Results survive whatever the disk does; and what looks for losses finds them where one is made on purpose."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from enginebench.store import files, journal, manifest, result
from enginebench.store.journal import Journal, read_journal

from .crashes import FAULTS, Crashes, Tally
from .small_run import LAUNCHES, SmallRun


@pytest.fixture
def crashes(tmp_path: Path) -> Iterator[Crashes]:
    with pytest.MonkeyPatch.context() as patch:
        yield Crashes(SmallRun(patch, tmp_path / "cache"), tmp_path / "disks")


def test_a_loss_of_power_in_any_operation_loses_nothing_that_was_safe(crashes: Crashes) -> None:
    tally, _ = crashes.loss_of_power()
    assert tally.findings == []
    assert tally.operations > 2 * LAUNCHES
    assert tally.resumed > 5 * LAUNCHES


@pytest.mark.parametrize("fault", FAULTS)
def test_an_operation_that_fails_ends_the_run_and_loses_nothing(crashes: Crashes, fault: str) -> None:
    tally = Tally()
    for number in range(crashes.operations):
        tally.add(crashes.failure(fault, number))
    assert tally.findings == []
    assert tally.resumed > LAUNCHES


# ---- negative controls ----------------------------------------------------------------------------------------


def line_of(record: object) -> bytes:
    return journal._framed(msgspec.json.encode(record))


def without_sync(self: Journal, record: object) -> None:
    files.write_all(self._descriptor, line_of(record))


def deaf(self: Journal, record: object) -> None:
    """A failed sync is no reason to stop."""
    files.write_all(self._descriptor, line_of(record))
    with contextlib.suppress(OSError):
        files.sync(self._descriptor)


def renamed_without_sync(path: Path, text: str) -> None:
    half = path.with_name("half")
    descriptor = files.scratch(half)
    files.write_all(descriptor, text.encode())
    files.close(descriptor)
    files.rename(half, path)
    files.sync_folder(path.parent)


def in_place(path: Path, text: str) -> None:
    descriptor = files.scratch(path)
    files.write_all(descriptor, text.encode())
    files.sync(descriptor)
    files.close(descriptor)


def make_folder_and_no_more(path: Path) -> None:
    for folder in (path.parent, path):
        if not folder.exists():
            files.make(folder)


@pytest.mark.parametrize(
    ("place", "name", "wrong", "kind"),
    [
        (Journal, "_append", without_sync, "lost"),
        (Journal, "_sync_name", lambda _: None, "lost"),
        (files, "make_folder", make_folder_and_no_more, "lost"),
        (result, "write_whole", renamed_without_sync, "half"),
        (manifest, "write_whole", in_place, "half"),
    ],
)
def test_a_loss_is_found(
    crashes: Crashes, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, wrong: Callable[..., Any], kind: str
) -> None:
    monkeypatch.setattr(crashes, "_resume", lambda *_: None)
    assert crashes.loss_of_power()[0].findings == []
    monkeypatch.setattr(place, name, wrong)
    found = crashes.loss_of_power()[0]
    assert getattr(found, kind) > 0


def test_a_failed_sync_that_nobody_minds_is_found(crashes: Crashes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes, "_resume", lambda *_: None)
    monkeypatch.setattr(Journal, "_append", deaf)
    tally = Tally()
    for number in range(10):
        tally.add(crashes.failure("EIO", number))
    assert tally.lost > 0


def test_damage_that_stays_is_found(crashes: Crashes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail is cut at the last line break: one that a loss of power kept, of a record that it did not keep."""

    def careless(path: Path) -> journal.Journalled:
        content = read_journal(path)
        content.sound_bytes = path.read_bytes().rfind(b"\n") + 1
        return content

    monkeypatch.setattr(journal, "read_journal", careless)
    tally, _ = crashes.loss_of_power()
    assert any("is in the journal to stay" in finding for finding in tally.findings)

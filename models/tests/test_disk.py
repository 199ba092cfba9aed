"""Files that are there whole or not at all, and one writer at a time."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.disk import exclusive, whole
from enginebench_models.reference_cache import reference_logits


def test_a_file_has_its_name_when_all_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    with whole(path) as file:
        file.write(b"{")
        assert not path.exists()
        file.write(b"}")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("answer.json", b"{}")]


def test_a_file_that_could_not_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), whole(path) as file:
        file.write(b"new")
        raise KeyError
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("answer.json", b"old")]


def test_reference_logits_that_the_disk_cannot_hold_leave_nothing_there(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, values: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("enginebench_models.reference_cache.np.save", full)
    with pytest.raises(OSError, match="No space left"):
        reference_logits(tiny, [1, 2], 1, tmp_path / "reference")
    assert list((tmp_path / "reference").iterdir()) == []


def test_a_lock_is_held_and_given_back(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    with exclusive(lock), lock.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

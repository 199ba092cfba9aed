"""One writer at a time."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from enginebench_models.disk import exclusive


def test_a_lock_is_held_and_given_back(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    with exclusive(lock), lock.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

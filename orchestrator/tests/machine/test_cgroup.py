"""What is read of a control group, and what is done when it is given up: planted files."""

from __future__ import annotations

from pathlib import Path

from enginebench.machine.cgroup import MemoryCgroup


def test_kills_for_want_of_memory_are_counted(tmp_path: Path) -> None:
    group = MemoryCgroup(tmp_path)
    assert group.oom_kills() == 0
    (tmp_path / "memory.events").write_text("oom 3\noom_kill 2\noom_group_kill 1\n")
    assert group.oom_kills() == 2


def test_what_is_in_it_still_is_killed_where_the_kernel_can(tmp_path: Path) -> None:
    (tmp_path / "cgroup.kill").write_text("")
    MemoryCgroup(tmp_path).close()
    assert (tmp_path / "cgroup.kill").read_text() == "1\n"


def test_an_empty_group_is_removed(tmp_path: Path) -> None:
    MemoryCgroup(tmp_path).close()
    assert not tmp_path.exists()

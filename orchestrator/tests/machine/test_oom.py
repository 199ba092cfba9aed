"""The kernel's counters of processes killed for want of memory: planted, and with a real kill where one can be made."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from enginebench.machine.oom import OomKills

MOUNT = "30 23 0:26 / {} rw - cgroup2 cgroup2 rw"


def planted(root: Path, of_machine: int | None, of_group: int | None) -> Path:
    """A /proc whose group of version 2 is in `root`."""
    proc, group = root / "proc", root / "cgroup" / "ours"
    (proc / "self").mkdir(parents=True, exist_ok=True)
    group.mkdir(parents=True, exist_ok=True)
    (proc / "self/mountinfo").write_text(MOUNT.format(root / "cgroup") + "\n")
    (proc / "self/cgroup").write_text("0::/ours\n")
    (proc / "vmstat").write_text("pgfault 7\n" + (f"oom_kill {of_machine}\n" if of_machine is not None else ""))
    if of_group is not None:
        (group / "memory.events").write_text(f"low 0\nhigh 0\nmax 3\noom 1\noom_kill {of_group}\noom_group_kill 0\n")
    return proc


def test_both_counters_are_read(tmp_path: Path) -> None:
    assert OomKills.read(planted(tmp_path, 5, 2)) == OomKills(of_group=2, of_machine=5)


def test_what_nobody_counts_is_unknown_and_no_evidence(tmp_path: Path) -> None:
    nothing = OomKills.read(planted(tmp_path, None, None))
    assert nothing == OomKills(None, None)
    assert not nothing.killed_since(nothing, by_sigkill=True)


@pytest.mark.parametrize(
    ("now", "by_sigkill", "expected"),
    [
        (OomKills(1, 6), False, True),  # our group: it was one of ours
        (OomKills(0, 6), True, True),
        (OomKills(0, 6), False, False),  # somebody else's process, elsewhere on the machine
        (OomKills(0, 5), True, False),  # a SIGKILL, but not the kernel's
    ],
)
def test_what_is_evidence(now: OomKills, by_sigkill: bool, expected: bool) -> None:
    assert now.killed_since(OomKills(0, 5), by_sigkill) is expected


def test_a_real_kill_by_the_kernel_is_counted(small_group: Path) -> None:
    code = "import sys; sys.stdin.readline(); held = bytearray(200 * 2**20); held[::4096] = b'x' * len(held[::4096])"
    before = OomKills.read()
    with subprocess.Popen([sys.executable, "-I", "-c", code], stdin=subprocess.PIPE) as child:
        (small_group / "cgroup.procs").write_text(str(child.pid))
        child.communicate(b"\n")
    assert child.returncode == -signal.SIGKILL
    assert OomKills.read().killed_since(before, by_sigkill=True)

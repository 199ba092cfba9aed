"""Whether the kernel killed a process for want of memory: its counters before and after.

Our control group counts its own processes; /proc/vmstat those of the whole machine, so that it is evidence only beside
a SIGKILL that nobody of ours sent. Version 2 of control groups; in version 1 the machine's counter alone is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .cgroup import oom_kills_of, own_group
from .noise import PROC, lines_of


@dataclass(frozen=True)
class OomKills:
    """Counted since the group, or the machine, was started; None where nobody counts."""

    of_group: int | None
    of_machine: int | None

    @classmethod
    def read(cls, proc: Path = PROC) -> OomKills:
        group = own_group(proc)
        rows = (line.split() for line in lines_of(proc / "vmstat"))
        return cls(
            of_group=None if group is None else oom_kills_of(group),
            of_machine=next((int(row[1]) for row in rows if row[0] == "oom_kill"), None),
        )

    def killed_since(self, before: OomKills, by_sigkill: bool) -> bool:
        """`by_sigkill`: the process ended by a SIGKILL that nobody of ours sent."""
        return _more(before.of_group, self.of_group) or (by_sigkill and _more(before.of_machine, self.of_machine))


def _more(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now > before

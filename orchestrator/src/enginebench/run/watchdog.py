"""Kills engines when the orchestrator itself is killed: a second process that waits for a pipe to close.

The kernel's parent-death signal reaches only the engine; its own children (compilers, servers) need this. Runs alone,
with the standard library only: `python -I watchdog.py`, fed with lines "+PGID" and "-PGID".
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        (groups.add if line[0] == "+" else groups.discard)(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    main()

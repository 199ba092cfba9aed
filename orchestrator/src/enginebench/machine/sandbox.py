"""What a process has given up, seen from outside: new privileges, core dumps, files that others read.

`in_force` tries what can be had on this machine, by processes that ask for it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from enginebench.run.passed_on import program_environment

from .noise import PROC

NONE = "none"


_ENGINE = "from enginebench_protocol import sandbox; sandbox.enter(); print(flush=True); input()"


def in_force() -> dict[str, str]:
    """Who → what it gives up, in words."""
    return {"engines": _of_engines(), "readers of model files and chat templates": _of_readers()}


def _of_engines() -> str:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _ENGINE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=program_environment(),
    ) as child:
        assert child.stdin and child.stdout
        child.stdout.readline()
        found = sandbox_of(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
    return found or NONE


def _of_readers() -> str:
    command = [sys.executable, "-P", "-m", "enginebench_models.confinement"]
    done = subprocess.run(command, env=program_environment(), capture_output=True, text=True, check=False)
    return done.stdout.strip() or NONE


def sandbox_of(pid: int, proc: Path = PROC) -> str | None:
    """In words; "none" where nothing is in force, None where it cannot be read."""
    try:
        status = (proc / str(pid) / "status").read_text()
        limits = (proc / str(pid) / "limits").read_text()
    except OSError:
        return None
    parts = {
        "no_new_privs": re.search(r"^NoNewPrivs:\s*1$", status, re.MULTILINE),
        "core 0": re.search(r"^Max core file size\s+0\s+0\s", limits, re.MULTILINE),
        "umask 077": re.search(r"^Umask:\s*0077$", status, re.MULTILINE),
    }
    return ", ".join(name for name, holds in parts.items() if holds) or NONE

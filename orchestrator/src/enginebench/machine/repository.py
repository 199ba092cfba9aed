"""The commit that the suite is run from, as git knows it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from enginebench.run.passed_on import program_environment
from enginebench.store.record import Record


class Repository(Record, frozen=True):
    """`dirty`: there are changes that no commit holds."""

    commit: str | None
    dirty: bool


def repository(root: Path) -> Repository | None:
    """None without git, and outside a repository."""
    status = output_of(["git", "-C", str(root), "status", "--porcelain"])
    if status is None:
        return None
    commit = output_of(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"])
    return Repository(commit=commit.strip() if commit else None, dirty=bool(status.strip()))


def output_of(command: Sequence[str]) -> str | None:
    """What a program prints; None if it is not there or fails."""
    try:
        done = subprocess.run(
            command, env=program_environment(), capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout
    except (OSError, subprocess.SubprocessError):
        return None

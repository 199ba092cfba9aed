"""What the command line tells its user.

BenchError
├── UsageError          wrong input: the value and the remedy; exit code 2
├── UnavailableError    an engine cannot run on this machine: the reason; a row of the table, not the end of the run
└── StorageError        the disk is full or failed: the folder, and what is safe; exit code 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Base of the three."""


class UsageError(BenchError):
    """The user asked for something that cannot be done as written."""


class UnavailableError(BenchError):
    """This engine cannot run here."""


class StorageError(BenchError):
    """Something could not be written, or perhaps not kept."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A UsageError with the near match and the list of what is possible."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}there are {', '.join(names)}")

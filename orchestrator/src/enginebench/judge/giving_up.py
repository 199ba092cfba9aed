"""When a case is given up: its launches have failed three times, whatever the reason (method R10). The others go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from enginebench.store.record import Launch

MOST_FAILURES = 3


def given_up(launches: Sequence[Launch]) -> str | None:
    """Why no further launch of their case is made; None: there may be more."""
    failures = Counter(launch.failure.reason for launch in launches if launch.failure is not None)
    if failures.total() < MOST_FAILURES:
        return None
    told = ", ".join(f"{count} x {reason}" for reason, count in failures.items())
    return f"no further launches after {failures.total()} that failed ({told})"

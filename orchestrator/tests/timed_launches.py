"""Launches written by hand, for the tests of what follows from them."""

from __future__ import annotations

from typing import Any

from enginebench.store.record import Launch

MS = 1_000_000


def one_launch(records: Any) -> list[Launch]:
    """Warm-up 50, 60, 70 ms; then gaps of 2 and 4 ms, of 3 and 5 ms, and of 10 and 20 ms."""
    requests = [
        records.request(0, (50, 60, 70), warmup=True),
        records.request(1, (8, 10, 14)),
        records.request(2, (12, 15, 20)),
        records.request(3, (30, 40, 60)),
    ]
    return [records.check(), records.timed(requests)]


def with_tpot(records: Any, ms: float, **changes: Any) -> Launch:
    """A launch of one request whose two gaps are `ms` long."""
    launch: Launch = records.timed([records.request(0, (10, 10 + ms, 10 + 2 * ms))], **changes)
    return launch

"""The kernels of profiled cases as text, the longest first."""

from __future__ import annotations

from pathlib import Path

from enginebench.errors import UsageError
from enginebench.judge.kernels import Kernel, kernels_of
from enginebench.plain_text import printable
from enginebench.store import profiles

from .formats import Sheet

MOST = 12


def kernel_sheet(run: Path) -> Sheet:
    """One row per kernel of each profiled case. Raises UsageError where there is none."""
    rows = [
        {"case": case, **row}
        for case, folder in profiles.found(run).items()
        if (folder / profiles.TRACE).is_file()
        for row in _rows(kernels_of(folder / profiles.TRACE))
    ]
    if not rows:
        raise UsageError(f"run {run.name} has no profile: `enginebench run … --profile` makes one")
    return Sheet.of("kernels", rows)


def _rows(kernels: list[Kernel]) -> list[dict[str, object]]:
    rows = [_row(printable(kernel.name)[:72], kernel.calls, kernel.total_ns, kernel.share) for kernel in kernels[:MOST]]
    if rest := kernels[MOST:]:
        parts = (sum(k.calls for k in rest), sum(k.total_ns for k in rest), sum(k.share for k in rest))
        rows.append(_row(f"{len(rest)} others", *parts))
    return rows


def _row(name: str, calls: int, total_ns: float, share: float) -> dict[str, object]:
    return {"kernel": name, "calls": calls, "total ms": total_ns / 1e6, "share %": 100 * share}

"""One case over time: the values that stored runs give for it, and where its level stepped.

Only runs of one machine, device, weights, dtype and thread count stand in one series: those of the newest run. A step
is a change-point (`judge.warmup`) whose levels differ by 1 % or more.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from enginebench.errors import UsageError, unknown

from .interval import log_mean
from .warmup import change_points

LEAST_STEP = 0.01
MOST_POINTS = 500
"""Runs that are searched for steps, the newest: the time grows with the square of their number."""


@dataclass(frozen=True)
class Point:
    run_id: str
    date: str
    commit: str | None
    versions: str | None
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Step:
    """`at`: index of the first point of the new level."""

    at: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        return self.after / self.before


@dataclass(frozen=True)
class History:
    """Oldest first. `left_out`: runs of other machines or weights."""

    case_id: str
    metric: str
    unit: str
    group: dict[str, Any]
    points: list[Point]
    steps: list[Step]
    left_out: int

    def level(self, index: int) -> float | None:
        """Of the stretch between steps that a point belongs to; None before the part that was searched."""
        if index < len(self.points) - MOST_POINTS:
            return None
        passed = [step for step in self.steps if step.at <= index]
        if passed:
            return passed[-1].after
        return self.steps[0].before if self.steps else log_mean([p.value for p in self.points[-MOST_POINTS:]])


GROUP = ("machine", "device", "threads", "weights", "fingerprint", "weight_dtype", "kv_dtype")


def history(connection: duckdb.DuckDBPyConnection, case: str, metric: str, machine: str = "") -> History:
    """`case`: a case id or its beginning; `machine`: part of its name. Raises UsageError with the near match."""
    case_id = case_meant(connection, case)
    _check_metric(connection, metric)
    columns = ("run_id", "date", "commit", "engine_versions", "value", "low", "high", "unit", *GROUP)
    rows = connection.execute(
        f"SELECT {', '.join(columns)} FROM results JOIN metrics USING (run_id, case_id) "  # noqa: S608 (names of ours)
        "WHERE case_id = ? AND metric = ? AND valid AND value > 0 AND contains(lower(machine), lower(?)) "
        "ORDER BY date, run_id",
        [case_id, metric, machine],
    ).fetchall()
    if not rows:
        where = f" on a machine like {machine!r}" if machine else ""
        raise UsageError(f"no run has a valid {metric} for {case_id}{where}: ask for another --metric, or see `query`")
    newest = rows[-1][8:]
    points = [
        Point(run_id, date.isoformat(" "), commit, versions, value, low, high)
        for run_id, date, commit, versions, value, low, high, _, *group in rows
        if tuple(group) == newest
    ]
    group = dict(zip(GROUP, newest, strict=True))
    found = steps([point.value for point in points])
    return History(case_id, metric, rows[-1][7], group, points, found, len(rows) - len(points))


def steps(values: Sequence[float]) -> list[Step]:
    """Steps among the newest MOST_POINTS values; indexes count from the first of all."""
    first = max(0, len(values) - MOST_POINTS)
    searched = values[first:]
    starts = change_points(searched)
    levels = [log_mean(searched[a:b]) for a, b in zip(starts, [*starts[1:], len(searched)], strict=True)]
    merged = _merged(searched, starts, levels)
    return [Step(first + at, before, after) for (_, before), (at, after) in itertools.pairwise(merged)]


def _merged(values: Sequence[float], starts: list[int], levels: list[float]) -> list[tuple[int, float]]:
    """(start, level) of stretches: neighbours of one level are one, however their spread differs."""
    stretches = [(starts[0], levels[0])]
    for index, (start, level) in enumerate(zip(starts[1:], levels[1:], strict=True), start=1):
        since, known = stretches[-1]
        if abs(level / known - 1) >= LEAST_STEP:
            stretches.append((start, level))
        else:
            end = starts[index + 1] if index + 1 < len(starts) else len(values)
            stretches[-1] = (since, log_mean(values[since:end]))
    return stretches


def case_meant(connection: duckdb.DuckDBPyConnection, case: str) -> str:
    """The one case that a name stands for. Raises UsageError."""
    known = [row[0] for row in connection.execute("SELECT DISTINCT case_id FROM cases ORDER BY 1").fetchall()]
    found = [id_ for id_ in known if id_ == case] or [id_ for id_ in known if f"{id_}/".startswith(f"{case}/")]
    if not found:
        raise unknown("case", case, known or ["none yet"])
    if len(found) > 1:
        raise UsageError(f"{case} stands for {len(found)} cases: write one of {', '.join(found[:8])}")
    return str(found[0])


def _check_metric(connection: duckdb.DuckDBPyConnection, metric: str) -> None:
    known = [row[0] for row in connection.execute("SELECT DISTINCT metric FROM metrics").fetchall()]
    if metric not in known:
        raise unknown("metric", metric, known)

"""A case over time: a sparkline, a row per run, and the steps in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from enginebench.counted import counted
from enginebench.judge.history import MOST_POINTS, History, Point
from enginebench.plain_text import printable

from .formats import NONE, Output, Sheet, markdown, markdown_escaped, rendered, rounded, text_table
from .sparkline import sparkline

SCALES = {"ns": ("ms", 1e6), "bytes": ("MB", 1e6)}


def terminal(found: History, last: int) -> RenderableType:
    return Group(*map(Text, above(found)), text_table(shown(found, last)), *map(Text, below(found, last)))


def text(found: History, output: Output, last: int) -> str:
    if output is Output.json:
        return json.dumps(as_object(found), indent=1, ensure_ascii=False, allow_nan=False)
    if output is not Output.md:
        return rendered(raw(found), output)
    parts = ("  \n".join(map(markdown_escaped, lines)) for lines in (above(found), below(found, last)))
    return f"\n\n{markdown(shown(found, last))}\n\n".join(parts)


def above(found: History) -> list[str]:
    unit, scale = _unit(found)
    values = [point.value / scale for point in found.points]
    versions = {point.versions for point in found.points}
    said = {**found.group, "fingerprint": str(found.group["fingerprint"])[:12]}
    if len(versions) == 1:
        said["versions"] = versions.pop()
    return [
        f"{found.case_id}: {found.metric} in {unit}, {counted(len(values), 'run')}",
        "; ".join(f"{name} {printable(str(value))}" for name, value in said.items() if value is not None),
        f"{sparkline(values)}  {rounded(min(values))} to {rounded(max(values))} {unit}",
    ]


def below(found: History, last: int) -> list[str]:
    unit, scale = _unit(found)
    lines = []
    for step in found.steps:
        before, after = found.points[step.at - 1], found.points[step.at]
        lines.append(
            f"step of {step.ratio - 1:+.1%} at run {after.run_id} ({rounded(step.before / scale)} to "
            f"{rounded(step.after / scale)} {unit}): {_change(before, after)}"
        )
    lines += [] if found.steps else ["no step of 1 % or more"]
    if len(found.points) > MOST_POINTS:
        lines.append(f"steps were looked for in the newest {MOST_POINTS} runs")
    if len(found.points) > last:
        lines.append(f"the newest {last} of {len(found.points)} runs; --last shows more, -o csv all")
    if found.left_out:
        runs = counted(found.left_out, "run")
        lines.append(f"left out: {runs} of another machine, device, weights, dtype or thread count")
    return [printable(line) for line in lines]


def _change(before: Point, after: Point) -> str:
    """What is known to have changed between two runs."""
    commit = f"commit {_short(before.commit)} to {_short(after.commit)}" if before.commit != after.commit else ""
    versions = f"{before.versions} to {after.versions}" if before.versions != after.versions else ""
    return "; ".join(filter(None, (commit, versions))) or "the same commit and versions"


def shown(found: History, last: int) -> Sheet:
    """For people: the newest runs, rounded; versions only where they differ."""
    unit, scale = _unit(found)
    steps = {step.at: step for step in found.steps}
    told = len({point.versions for point in found.points}) > 1
    rows: list[dict[str, Any]] = [
        {
            "date": point.date[:16],
            "run": point.run_id,
            "commit": _short(point.commit),
            **({"versions": point.versions} if told else {}),
            unit: rounded(point.value / scale),
            "± %": _half_width(point),
            "step": f"{steps[index].ratio - 1:+.1%}" if index in steps else "",
        }
        for index, point in enumerate(found.points)
    ]
    return Sheet.of("history", rows[-last:])


def raw(found: History) -> Sheet:
    return Sheet.of("history", list(_raw(found)))


def _raw(found: History) -> Iterator[dict[str, Any]]:
    steps = {step.at: step.ratio for step in found.steps}
    for index, point in enumerate(found.points):
        yield {
            "case_id": found.case_id,
            "metric": found.metric,
            "unit": found.unit,
            "machine": found.group["machine"],
            "run_id": point.run_id,
            "date": point.date,
            "commit": point.commit,
            "versions": point.versions,
            "value": point.value,
            "low": point.low,
            "high": point.high,
            "level": found.level(index),
            "step": steps.get(index),
        }


def as_object(found: History) -> dict[str, Any]:
    sheet = raw(found)
    return {
        "case_id": found.case_id,
        "metric": found.metric,
        "unit": found.unit,
        **found.group,
        "points": [dict(zip(sheet.columns[4:], row[4:], strict=True)) for row in sheet.rows],
        "steps": [
            {"run_id": found.points[s.at].run_id, "before": s.before, "after": s.after, "ratio": s.ratio}
            for s in found.steps
        ],
        "left_out": found.left_out,
    }


def _unit(found: History) -> tuple[str, float]:
    return SCALES.get(found.unit, (found.unit, 1.0))


def _half_width(point: Point) -> str:
    if point.low is None or point.high is None:
        return NONE
    return f"{(point.high - point.low) / 2 / point.value * 100:.1f}"


def _short(commit: str | None) -> str:
    return commit[:12] if commit else NONE

"""One stacked bar for each case: what a cold start is made of, in the order in which it happens, and what memory is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginebench.judge.plain_case import label
from enginebench.plain_text import printable
from enginebench.report.cold_start import PARTS
from enginebench.report.formats import Sheet, rounded

from .bars import ROW, block, label_above, rows_from_the_top
from .drawing import MUTED, SERIES, Lack, Plot, legend_below, legend_height

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (*SERIES, MUTED)
MEMORY_PARTS = {
    "weights": "model_memory_bytes",
    "KV cache": "kv_cache_bytes",
    "workspace": "workspace_bytes",
    "rest of the peak": "unaccounted_memory_bytes",
    "workspace and rest": "memory_overhead_bytes",
}
STATES = {"disk-cold": "model on the disk alone", "cache-warm": "model in the page cache"}


@dataclass(frozen=True)
class Stack:
    """Parts that are not known are None, and nothing is drawn for them. `total`: what is written at the end."""

    label: str
    parts: dict[str, float | None]
    total: float | None


def cold_start(cases: Sequence[dict[str, Any]], state: str) -> Plot | Lack:
    title = f"From the spawn to the first token, {STATES[state]}"
    standing = [case for case in cases if case["status"] == "ok"]
    known = [case for case in standing if case.get("anatomy", {}).get(state, {}).get("total_ns")]
    if not known:
        return Lack(title, _no_start(cases, state))
    stacks = [_start(case, case["anatomy"][state]) for case in known]
    return _plot(f"cold-start-{state}", title, "s", sorted(stacks, key=lambda stack: stack.total or 0), "soonest")


def _start(case: dict[str, Any], found: dict[str, Any]) -> Stack:
    parts = {title: _scaled(found["parts_ns"][name], 1e9) for name, title in PARTS.items()}
    return Stack(printable(label(case)), parts, _scaled(found["total_ns"], 1e9))


def _no_start(cases: Sequence[dict[str, Any]], state: str) -> str:
    reasons = [r for case in cases for r in case.get("anatomy", {}).get(state, {}).get("reasons", ())]
    if reasons:
        return "; ".join(dict.fromkeys(reasons))
    if state == "disk-cold":
        return "no launch started from the disk: `enginebench run … --cold 3` makes some"
    return "this run holds no cold starts: no launch came to a first token, or an older enginebench made it"


def memory(cases: Sequence[dict[str, Any]]) -> Plot | Lack:
    title = "Peak memory and what it is"
    stacks = [stack for case in cases if (stack := _memory(case)) is not None]
    if not stacks:
        reasons = [r for case in cases for r in (case["metrics"].get("peak_memory_bytes") or {}).get("reasons", ())]
        return Lack(title, "; ".join(dict.fromkeys(reasons)) or "memory was not read in this run")
    return _plot("memory", title, "GB", sorted(stacks, key=lambda stack: stack.total or 0), "least")


def _memory(case: dict[str, Any]) -> Stack | None:
    """Held against the memory of the device where there is one. The last part: where no workspace is told."""
    values = {title: _metric(case, name) for title, name in MEMORY_PARTS.items()}
    peak = _metric(case, "device_peak_memory_bytes") or _metric(case, "peak_memory_bytes")
    if peak is None:
        return None
    if values["workspace"] is not None:
        values["workspace and rest"] = None
    return Stack(printable(label(case)), {title: _scaled(v, 1e9) for title, v in values.items()}, peak / 1e9)


def _metric(case: dict[str, Any], name: str) -> float | None:
    metric = case["metrics"].get(name)
    return metric["value"] if metric and metric["valid"] else None


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


# ---- drawing --------------------------------------------------------------------------------------------------


def _plot(name: str, title: str, unit: str, stacks: list[Stack], best: str) -> Plot:
    present = [part for part in stacks[0].parts if any(stack.parts[part] for stack in stacks)]
    first, last = stacks[0], stacks[-1]
    ends = f"{best.capitalize()}: {_said(first, unit)}" + (f"; most: {_said(last, unit)}" if len(stacks) > 1 else "")
    legend = legend_height(present)
    return Plot(
        name=name,
        title=f"{title}, {unit}",
        summary=f"{ends}.",
        data=Sheet(name, ("case", *present, "total"), [_row(stack, present) for stack in stacks]),
        height=ROW * len(stacks) + 46 + legend,
        bottom=40 + legend,
        draw=lambda axes: _draw(axes, stacks, present, unit),
    )


def _row(stack: Stack, present: Sequence[str]) -> tuple[Any, ...]:
    return (stack.label, *(stack.parts[part] for part in present), stack.total)


def _said(stack: Stack, unit: str) -> str:
    """With its largest part."""
    part = max(stack.parts, key=lambda name: stack.parts[name] or 0)
    total, largest = stack.total or 0, stack.parts[part] or 0
    return f"{stack.label}, {rounded(total)} {unit}, of which {part} {rounded(largest)}"


def _draw(axes: Axes, stacks: Sequence[Stack], present: Sequence[str], unit: str) -> None:
    """Parts below nothing, a difference of two readings, are in the table only."""
    starts = [0.0] * len(stacks)
    handles = []
    for part, colour in zip(present, COLOURS, strict=False):
        lengths = [max(stack.parts[part] or 0.0, 0.0) for stack in stacks]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        handles.append(block(axes, range(len(stacks)), starts, ends, colour))
        starts = ends
    for place, (stack, end) in enumerate(zip(stacks, starts, strict=True)):
        total = stack.total or end
        axes.annotate(rounded(total), (max(end, total), place), (5, 0), textcoords="offset points", va="center")
        label_above(axes, stack.label, place)
    rows_from_the_top(axes, len(stacks))
    axes.set_xlim(0, max(*starts, *(stack.total or 0 for stack in stacks), 1e-9) * 1.14)
    axes.set_xlabel(unit)
    legend_below(axes, handles, present)

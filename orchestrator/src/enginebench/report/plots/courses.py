"""Lines over the tokens or requests of a process: time of each token, time of each request, time to N tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginebench.judge.plain_case import label
from enginebench.judge.token_course import token_course
from enginebench.plain_text import printable
from enginebench.report.cold_start import sentence
from enginebench.report.formats import Sheet, rounded
from enginebench.report.warmup import warmup_remark

from .drawing import MUTED, Axis, Lack, Plot, legend_below, legend_height, line_style, log_axes, some
from .stacks import STATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 250


@dataclass(frozen=True)
class Line:
    """`place`: of its case among all of the table, which chooses the colour."""

    label: str
    place: int
    x: list[float]
    y: list[float]


def token_times(cases: Sequence[dict[str, Any]]) -> Plot | Lack:
    title = "Time of each token since the process started, ms"
    found = [(i, case, course) for i, case in _shown(cases) if (course := token_course(case)) is not None]
    if not found:
        return Lack(title, "no timed launch of a case with a passed gate generated more than one token a request")
    lines = [Line(_label(case), i, course.tokens, [ns / 1e6 for ns in course.gap_ns]) for i, case, course in found]
    warmup = max(course.warmup_tokens for _, _, course in found)
    slowest = max(lines, key=lambda line: line.y[0] / (line.y[-1] or 1.0))
    summary = (
        f"Median over launches; shaded: warm-up requests, the first {warmup} tokens. The first tokens count most for "
        f"{slowest.label}: {rounded(slowest.y[0])} ms at first, {rounded(slowest.y[-1])} ms in the end. First tokens "
        "of requests are left out, they end a prefill."
    )
    return _plot("token-times", title, summary, lines, ("token number", "ms"), shaded=warmup + 0.5)


def request_times(cases: Sequence[dict[str, Any]]) -> Plot | Lack:
    title = "Time of each request, as a multiple of a steady one"
    found = [(i, case, case["warmup"]["curve"]) for i, case in _shown(cases) if (case.get("warmup") or {}).get("curve")]
    if not found:
        return Lack(title, "no timed launch ended well, or an older enginebench made this run")
    lines = [Line(_label(case), i, [float(n) for n in range(1, len(curve) + 1)], curve) for i, case, curve in found]
    remarks = [(case, warmup_remark(case)) for _, case, _ in found]
    said = [f"{_label(case)}: {remark.partition('; request times')[0]}" for case, remark in remarks if remark]
    words = some(said) or "No case shows a warm-up that the change-point search finds, or requests are too few"
    return _plot("request-times", title, f"{words}.", lines, ("request number", "× steady"), ("y",), more=said)


def break_even(result: dict[str, Any], cases: Sequence[dict[str, Any]], state: str) -> Plot | Lack:
    title = f"Time until N tokens have come, from the spawn on, {STATES[state]}, s"
    courses = [(i, case, case.get("time_to_tokens_ns", {}).get(state)) for i, case in _shown(cases)]
    found = [(i, case, course) for i, case, course in courses if course and case["role"] != "instrument"]
    if not found:
        return Lack(title, f"no case has a {state} start that settled")
    lines = [
        Line(_label(c), i, [float(n) for n in course], [ns / 1e9 for ns in course.values()]) for i, c, course in found
    ]
    said = [printable(sentence(crossing)) for crossing in crossings(result, cases, state)]
    nobody = "Nobody overtakes anybody up to 10,000 tokens" if len(lines) > 1 else "One case alone overtakes nobody"
    summary = f"{some(said) or nobody}."
    return _plot(f"break-even-{state}", title, summary, lines, ("tokens", "s"), more=said)


def crossings(result: dict[str, Any], cases: Sequence[dict[str, Any]], state: str) -> list[dict[str, Any]]:
    work = {(case["model"], case["workload"], state) for case in cases}
    return [c for c in result.get("break_even", ()) if (c["model"], c["workload"], c["state"]) in work]


def _shown(cases: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    return [(place, case) for place, case in enumerate(cases) if case["status"] == "ok"]


def _label(case: dict[str, Any]) -> str:
    return printable(label(case))


# ---- drawing --------------------------------------------------------------------------------------------------


def _plot(
    name: str,
    title: str,
    summary: str,
    lines: Sequence[Line],
    heads: tuple[str, str],
    logarithmic: tuple[Axis, ...] = ("x", "y"),
    shaded: float | None = None,
    more: Sequence[str] = (),
) -> Plot:
    """`heads`: what x and y are; the title of the plot names the unit of y."""
    legend = legend_height([line.label for line in lines])
    return Plot(
        name=name,
        title=title,
        summary=summary,
        data=_data(name, lines, heads),
        height=HEIGHT + legend,
        left=46,
        bottom=42 + legend,
        more=more,
        draw=lambda drawn: _draw(drawn, lines, heads[0], logarithmic, shaded),
    )


DATA_ROWS = 14


def _data(name: str, lines: Sequence[Line], heads: tuple[str, str]) -> Sheet:
    """One row for each place on the x axis, as many as people read; the plot has all."""
    places = sorted({x for line in lines for x in line.x})
    step = -(-len(places) // DATA_ROWS)
    known = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    columns = (heads[0], *(f"{line.label}, {heads[1]}" for line in lines))
    return Sheet(name, columns, [(round(x), *(values.get(x) for values in known)) for x in places[::step]])


def _draw(drawn: Axes, lines: Sequence[Line], across: str, logarithmic: tuple[Axis, ...], shaded: float | None) -> None:
    handles = [
        drawn.plot(line.x, line.y, marker="." if len(line.x) < 20 else None, **line_style(line.place))[0]
        for line in lines
    ]
    if shaded is not None:
        drawn.axvspan(min(x for line in lines for x in line.x), shaded, color=MUTED, alpha=0.14, linewidth=0)
    log_axes(drawn, *logarithmic)
    drawn.set_xlabel(across)
    legend_below(drawn, handles, [line.label for line in lines])

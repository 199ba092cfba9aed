"""Ratios of speeds with their 95 % intervals and verdicts, one line each: of the cases of a run, or of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginebench.judge.regression import Regression
from enginebench.plain_text import printable
from enginebench.report import verdicts
from enginebench.report.formats import Sheet
from enginebench.report.regression import NAMES

from .bars import ROW, label_above, rows_from_the_top
from .drawing import INK, MUTED, SERIES, Lack, Plot, log_axes, some

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"FASTER": SERIES[2], "SLOWER": SERIES[1], "SAME": SERIES[0], "INCONCLUSIVE": MUTED}
MARKERS = {"FASTER": ">", "SLOWER": "<", "SAME": "s"}


@dataclass(frozen=True)
class Ratio:
    """`verdict` is empty where there are too few launches for one."""

    label: str
    ratio: float
    interval: tuple[float, float] | None
    verdict: str

    @property
    def said(self) -> str:
        bounds = f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]" if self.interval else ""
        return f"{self.ratio:.3f}x{bounds} {self.verdict}".strip()


def of_cases(result: dict[str, Any], model: str, workload: str) -> Plot | Lack:
    """Each case against the fastest in decoding, and what configurations of one engine say of each other."""
    title, place = "Speed ratios within this run", f"/{model}/{workload}"
    pairs, named = verdicts.compared(result, model, workload)
    decode = [c for c in verdicts.against_fastest(pairs) if c["metric"] == verdicts.RANKED]
    bases = list(dict.fromkeys(verdicts.label_at(c["base"], place) for c in decode))
    which = " of each precision class" if len(bases) > 1 else ""
    base = f" Against the fastest{which}, {printable(', '.join(bases))}." if bases else ""
    spoken = bool(result["plan"].get("verdicts", False))
    rows = [_row(_against(c, place, bases), c, spoken) for c in decode if c["ratio"] is not None]
    rows += [_row(_named(c, place), c, spoken) for c in named if c["ratio"] is not None]
    if not rows:
        reasons = [reason for c in (*decode, *named) for reason in c["reasons"]]
        return Lack(title, "; ".join(dict.fromkeys(reasons)) or _nothing(result))
    few = "" if spoken else " Too few launches for verdicts: the ratios are indicative."
    return _plot("comparisons", title, rows, f"Decode rates, right of 1 is faster.{base}{few}")


def _against(comparison: Mapping[str, Any], place: str, bases: Sequence[str]) -> str:
    """The base is said where there are several: one for each class that is compared apart."""
    new, base = (verdicts.label_at(comparison[end], place) for end in ("new", "base"))
    return f"{new} / {base}" if len(bases) > 1 else new


def _nothing(result: dict[str, Any]) -> str:
    if result["plan"].get("verdicts", False):
        return "fewer than two cases of this run can be compared"
    return f"preset {result['plan']['preset']} gathers too few launches for verdicts; `--preset standard` has enough"


def _named(comparison: dict[str, Any] | Any, place: str) -> str:
    what = verdicts.TITLES.get(comparison["metric"], comparison["metric"])
    ends = f"{verdicts.label_at(comparison['new'], place)} / {verdicts.label_at(comparison['base'], place)}"
    return f"{comparison['name']}, {what}: {ends}"


def of_runs(found: Regression) -> Plot | Lack:
    rows = [
        Ratio(
            label=printable(f"{row.case_id.partition('/')[0]}, {NAMES[row.metric]}"),
            ratio=row.ratio,
            interval=(row.interval[0], row.interval[1]) if row.interval else None,
            verdict=row.verdict,
        )
        for row in found.rows
        if row.ratio is not None
    ]
    title = f"Speed of {found.new.run_id} as a multiple of {found.base.run_id}"
    if not rows:
        return Lack(
            title, "; ".join(dict.fromkeys(note for row in found.rows for note in row.notes)) or "nothing to compare"
        )
    return _plot("ratios", title, rows, "Right of 1 the newer run is better (memory: needs less).")


def _row(label: str, comparison: Any, spoken: bool) -> Ratio:
    bounds = comparison["interval_95"]
    verdict = comparison["verdict"] if spoken else ""
    return Ratio(printable(label), comparison["ratio"], (bounds[0], bounds[1]) if bounds else None, verdict)


def _plot(name: str, title: str, rows: list[Ratio], summary: str) -> Plot:
    data = [(row.label, f"{row.ratio:.3f}", *_bounds(row), row.verdict or None) for row in rows]
    return Plot(
        name=name,
        title=title,
        summary=f"{summary} {some([f'{row.label}: {row.said}' for row in rows])}.",
        data=Sheet(name, ("what", "ratio", "95 % from", "to", "verdict"), data),
        height=ROW * len(rows) + 46,
        draw=lambda axes: _draw(axes, rows),
    )


def _bounds(row: Ratio) -> tuple[str | None, str | None]:
    return (f"{row.interval[0]:.3f}", f"{row.interval[1]:.3f}") if row.interval else (None, None)


def _draw(axes: Axes, rows: Sequence[Ratio]) -> None:
    axes.axvline(1, color=INK, linewidth=1)
    for place, row in enumerate(rows):
        colour = COLOURS.get(row.verdict, MUTED)
        if row.interval:
            axes.plot(row.interval, (place, place), color=colour, linewidth=2)
        axes.plot(row.ratio, place, MARKERS.get(row.verdict, "o"), color=colour, markersize=7)
        label_above(axes, f"{row.label}  {row.ratio:.3f}x  {row.verdict}", place)
    ends = [bound for row in rows for bound in (row.ratio, *(row.interval or ()))]
    axes.set_xlim(min(*ends, 0.97) / 1.02, max(*ends, 1.03) * 1.02)
    rows_from_the_top(axes, len(rows))
    log_axes(axes, "x")
    axes.set_xlabel("ratio of speeds")

"""One bar for each case, with its 95 % interval: decode rate and time to first token. Horizontal, labels above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginebench.judge.plain_case import label
from enginebench.plain_text import printable
from enginebench.report.formats import Sheet, rounded
from enginebench.report.table import is_withheld

from .drawing import INK, MUTED, SERIES, Lack, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 34


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    interval: tuple[float, float] | None
    is_instrument: bool = False

    @property
    def end(self) -> float:
        """Of all that is drawn."""
        return max(self.value, *(self.interval or (self.value,)))

    @property
    def said(self) -> str:
        if self.interval is None:
            return rounded(self.value)
        low, high = self.interval
        return f"{rounded(self.value)} [{rounded(low)}, {rounded(high)}]"


def decode(cases: Sequence[dict[str, Any]]) -> Plot | Lack:
    title, bars = "Decode rate", decode_bars(cases)
    if not bars:
        return Lack(title, _why(cases, "decode_tps"))
    return _plot("decode", title, "tok/s", bars, "fastest")


def time_to_first_token(cases: Sequence[dict[str, Any]]) -> Plot | Lack:
    title, bars = "Time to first token", ttft_bars(cases)
    if not bars:
        return Lack(title, _why(cases, "ttft_ns"))
    return _plot("ttft", title, "ms", bars, "soonest")


def decode_bars(cases: Sequence[dict[str, Any]]) -> list[Bar]:
    """Of the cases that have a valid value which may be shown, the best first."""
    bars = (_bar(case, "decode_tps", 1.0) for case in cases)
    return sorted((bar for bar in bars if bar), key=lambda bar: -bar.value)


def ttft_bars(cases: Sequence[dict[str, Any]]) -> list[Bar]:
    """The same of times, in ms."""
    bars = (_bar(case, "ttft_ns", 1e6) for case in cases)
    return sorted((bar for bar in bars if bar), key=lambda bar: bar.value)


def _bar(case: dict[str, Any], name: str, scale: float) -> Bar | None:
    metric = case["metrics"].get(name)
    if case["status"] != "ok" or metric is None or not metric["value"] or not metric["valid"] or is_withheld(metric):
        return None
    bounds = metric["interval"]
    interval = (bounds[0] / scale, bounds[1] / scale) if bounds else None
    return Bar(printable(label(case)), metric["value"] / scale, interval, case["role"] == "instrument")


def _why(cases: Sequence[dict[str, Any]], name: str) -> str:
    """Each reason once, of the cases that have none."""
    reasons = [r for case in cases for r in (case["metrics"].get(name) or {}).get("reasons", ())]
    stated = [case["reason"] for case in cases if case["status"] != "ok" and case["reason"]]
    found = list(dict.fromkeys([*stated, *reasons]))
    return "; ".join(found) or "no case has a valid value"


def _plot(name: str, title: str, unit: str, bars: list[Bar], best: str) -> Plot:
    engines = [bar for bar in bars if not bar.is_instrument] or bars
    ends = f"{best.capitalize()}: {engines[0].label}, {engines[0].said} {unit}"
    last = f"; at the other end {engines[-1].label}, {engines[-1].said} {unit}" if len(engines) > 1 else ""
    known = all(bar.interval for bar in bars)
    intervals = "" if known else " Where no interval is drawn, there were too few launches for one."
    grey = " Grey: an instrument, which shows what the device can do." if len(engines) < len(bars) else ""
    return Plot(
        name=name,
        title=f"{title}, {unit}",
        summary=f"{ends}{last}. Lines are 95 % intervals over launches.{intervals}{grey}",
        data=Sheet(
            name, ("case", unit, "95 % from", "to"), [(b.label, b.value, *(b.interval or (None, None))) for b in bars]
        ),
        height=ROW * len(bars) + 46,
        draw=lambda axes: draw(axes, bars, unit),
    )


def draw(axes: Axes, bars: Sequence[Bar], unit: str) -> None:
    places = range(len(bars))
    colours = [MUTED if bar.is_instrument else SERIES[0] for bar in bars]
    block(axes, places, [0.0] * len(bars), [bar.value for bar in bars], colours)
    known = [(place, *bar.interval) for place, bar in zip(places, bars, strict=True) if bar.interval]
    if known:
        rows, lows, highs = zip(*known, strict=True)
        axes.hlines(rows, lows, highs, color=INK, linewidth=1.2)
        axes.plot([*lows, *highs], [*rows, *rows], "|", color=INK, markersize=7)
    for place, bar in zip(places, bars, strict=True):
        axes.annotate(rounded(bar.value), (bar.end, place), (5, 0), textcoords="offset points", va="center")
        label_above(axes, bar.label, place)
    rows_from_the_top(axes, len(bars))
    axes.set_xlim(0, max(bar.end for bar in bars) * 1.14)
    axes.set_xlabel(unit)


def block(axes: Axes, places: Sequence[int], starts: Sequence[float], ends: Sequence[float], colour: Any) -> Any:
    """Horizontal bars as thick lines: one thing to draw, where each rectangle would be one. What is in the legend."""
    return axes.hlines(places, starts, ends, colors=colour, linewidth=0.36 * ROW, capstyle="butt")


def label_above(axes: Axes, text: str, place: float) -> None:
    axes.annotate(
        text, (0, place - 0.24), (0, 0), textcoords="offset points", va="bottom", xycoords=("axes fraction", "data")
    )


def rows_from_the_top(axes: Axes, rows: int) -> None:
    axes.set_ylim(rows - 0.6, -0.72)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")

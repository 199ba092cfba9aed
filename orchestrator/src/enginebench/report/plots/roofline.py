"""Bytes that a token reads against the decode rate, under the roof that the run's instrument reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from enginebench.judge.roofline import Point, Roofline, roofline
from enginebench.plain_text import printable
from enginebench.report.formats import Sheet, rounded

from .drawing import INK, MUTED, SERIES, Lack, Plot, legend_below, legend_height, log_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Roofline: tokens per second against the bytes that a token reads"
MARKERS = "osD^vP*X"


def plot(cases: Sequence[dict[str, Any]], plan: dict[str, Any]) -> Plot | Lack:
    found = roofline(cases, plan)
    engines = [point for point in found.points if point.role != "instrument"]
    if found.bytes_per_second is None:
        return Lack(TITLE, "no instrument ran beside the cases, so that the limit of the device is not known")
    if not engines:
        return Lack(TITLE, "no case has both a valid decode rate and an account of the bytes that a token reads")
    labels = [printable(point.label) for point in engines]
    legend = legend_height([*labels, ""])
    return Plot(
        name="roofline",
        title=TITLE,
        summary=_summary(found, engines),
        data=Sheet("roofline", HEADS, [_row(point) for point in found.points]),
        height=260 + legend,
        left=46,
        bottom=42 + legend,
        draw=lambda axes: _draw(axes, found, engines),
    )


HEADS = ("case", "GB per token", "tok/s", "operations per byte", "% of the limit")


def _row(point: Point) -> tuple[Any, ...]:
    share = None if point.share is None else point.share * 100
    return (printable(point.label), point.bytes_per_token / 1e9, point.decode_tps, point.intensity, share)


def _summary(found: Roofline, engines: Sequence[Point]) -> str:
    best = max(engines, key=lambda point: point.share or 0)
    roof = f"The line is what {printable(found.limit or '')} read: {rounded((found.bytes_per_second or 0) / 1e9)} GB/s"
    intensities = [point.intensity for point in engines if point.intensity is not None]
    compute = (
        f" A token does {rounded(min(intensities))} to {rounded(max(intensities))} operations for each byte that it "
        "reads; no compute limit was measured, so none is drawn."
        if intensities
        else ""
    )
    return f"{roof}. Closest to it: {printable(best.label)}, {rounded((best.share or 0) * 100)} % of it.{compute}"


def _draw(axes: Axes, found: Roofline, engines: Sequence[Point]) -> None:
    sizes = [point.bytes_per_token / 1e9 for point in found.points]
    low, high = min(sizes) / 1.6, max(sizes) * 1.6
    roof = (found.bytes_per_second or 0) / 1e9
    (line,) = axes.plot([low, high], [roof / low, roof / high], color=INK, linewidth=1.2)
    handles: list[Any] = [line]
    for point in engines:
        index = found.points.index(point)
        x, colour = point.bytes_per_token / 1e9, SERIES[index % len(SERIES)]
        axes.plot([x, x], point.interval or [point.decode_tps] * 2, color=colour, linewidth=1)
        marker = MARKERS[(index + index // len(SERIES)) % len(MARKERS)]
        handles += axes.plot(x, point.decode_tps, marker, color=colour, markersize=7, markeredgecolor=MUTED, alpha=0.85)
    log_axes(axes, "x", "y")
    axes.set_xlabel("GB read for each token")
    legend_below(axes, handles, [f"limit, {printable(found.limit or '')}", *(printable(p.label) for p in engines)])

"""What quantising gives: each quantised case's bytes and decode rate as multiples of its unquantised base's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from enginebench.report.formats import Sheet
from enginebench.report.quantisation import HEADS, quantisation_rows

from .bars import ROW, label_above, rows_from_the_top
from .drawing import INK, SERIES, Lack, Plot, legend_below, legend_height, log_axes, some

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Quantising: bytes and speed as multiples of the unquantised case"
LEGEND = ("bytes read for each token", "decode rate, with its 95 % interval")


def plot(result: Mapping[str, Any]) -> Plot | Lack:
    """Of the cases that have a base with a speed; all of them are in the table."""
    rows = quantisation_rows(result)
    if not rows:
        return Lack(TITLE, "no quantised case of this run stands")
    found = list(zip(result["quantisation"], rows, strict=True))
    drawn = [(impact, cells) for impact, cells in found if impact.get("decode_ratio") is not None]
    if not drawn:
        return Lack(TITLE, "no quantised case has an unquantised one beside it that was timed")
    said = [f"{cells[0]}: {cells[4]} the speed, KLD {cells[6]}" for _, cells in drawn]
    legend = 2 * legend_height(LEGEND)
    return Plot(
        name="quantisation",
        title=TITLE,
        summary=f"Right of 1 is more: bytes should lie left of it, speed right. {some(said)}.",
        data=Sheet("quantisation", HEADS, [tuple(cells) for _, cells in drawn]),
        height=ROW * len(drawn) + 46 + legend,
        bottom=40 + legend,
        draw=lambda axes: _draw(axes, drawn),
        more=said,
    )


def _draw(axes: Axes, drawn: Sequence[tuple[Mapping[str, Any], Sequence[str]]]) -> None:
    axes.axvline(1, color=INK, linewidth=1)
    for place, (impact, cells) in enumerate(drawn):
        base = impact.get("base_read_bytes_per_token")
        if base:
            axes.plot(impact["read_bytes_per_token"] / base, place, "s", color=SERIES[4], markersize=7)
        if impact.get("decode_interval_95"):
            axes.plot(impact["decode_interval_95"], (place, place), color=SERIES[0], linewidth=2)
        axes.plot(impact["decode_ratio"], place, "o", color=SERIES[0], markersize=7)
        label_above(axes, f"{cells[0]}; KLD {cells[6]}", place)
    rows_from_the_top(axes, len(drawn))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), max(high, 1.1))
    log_axes(axes, "x")
    axes.set_xlabel("× the unquantised case")
    handles = [axes.plot([], [], mark, color=colour)[0] for mark, colour in (("s", SERIES[4]), ("o", SERIES[0]))]
    legend_below(axes, handles, LEGEND)

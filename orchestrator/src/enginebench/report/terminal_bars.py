"""Bars for a terminal: decode rate and time to first token of each case, with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len

from enginebench.judge.plain_case import by_work
from enginebench.plain_text import printable

from .plots.bars import Bar, decode, decode_bars, time_to_first_token, ttft_bars
from .plots.drawing import Lack

NARROWEST = 10
FILLED, INSIDE, OUTSIDE = "█", "▒", "─"
"""Up to the value; the part of the interval below it, and above it."""
LEGEND = f"{INSIDE}{OUTSIDE}: 95 % interval over launches, below and above the value"


def bar_lines(result: dict[str, Any], width: int) -> Iterator[str]:
    """For each model and workload; a reason where there is nothing to draw."""
    for model, workload, cases in by_work(result):
        yield printable(f"{model['name']}, {workload['name']}")
        for plot, bars in ((decode(cases), decode_bars(cases)), (time_to_first_token(cases), ttft_bars(cases))):
            yield from ("", plot.title)
            yield from [printable(f"nothing to show: {plot.reason}")] if isinstance(plot, Lack) else drawn(bars, width)
        yield ""
    yield LEGEND


def drawn(bars: Sequence[Bar], width: int) -> Iterator[str]:
    """One line for each, all on one scale from 0 to the highest end of an interval."""
    names = max(cell_len(bar.label) for bar in bars)
    room = max(NARROWEST, width - names - max(len(bar.said) for bar in bars) - 2)
    scale = room / max(bar.end for bar in bars)
    for bar in bars:
        line = _line(bar, scale)
        yield f"{bar.label}{' ' * (names - cell_len(bar.label))} {line}{' ' * (room - len(line))} {bar.said}"


def _line(bar: Bar, scale: float) -> str:
    low, value, high = (round(end * scale) for end in sorted((bar.value, *(bar.interval or (bar.value,) * 2))))
    return FILLED * low + INSIDE * (value - low) + OUTSIDE * (high - value)

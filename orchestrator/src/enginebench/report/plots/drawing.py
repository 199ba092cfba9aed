"""What a plot is, the one style of all plots, and how a plot becomes an SVG for the page, an SVG file or a PNG.

Matplotlib is imported when the first plot is drawn: it takes as long as all else that a command needs. Text stays text,
and nothing is read as markup or as a formula. In the page colours are CSS variables, so that they follow its theme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as ET

from enginebench.plain_text import printable
from enginebench.report.formats import Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 440
"""Of every plot, in the units of its fonts: read on a phone at three quarters of its size."""
INK, MUTED, GRID = "#1b1b1c", "#5f6368", "#d9dadc"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#6b6b00")
"""Told apart by the colour-blind: Okabe and Ito's, without the two that vanish on paper, and two darker ones."""
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
THEMED = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    **{colour: f"var(--c{index})" for index, colour in enumerate(SERIES)},
}
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "enginebench",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}

Format = Literal["svg", "png"]
Axis = Literal["x", "y"]


@dataclass(frozen=True)
class Plot:
    """`summary` and `data` say in words and as a table what `draw` shows; `more`: all that the summary says a part of.

    Lengths are those of WIDTH.
    """

    name: str
    title: str
    summary: str
    data: Sheet
    height: int
    draw: Callable[[Axes], None]
    left: int = 16
    bottom: int = 40
    more: Sequence[str] = ()


@dataclass(frozen=True)
class Lack:
    """A plot that this run has no data for, and why."""

    title: str
    reason: str


def file(plot: Plot, form: Format) -> bytes:
    """As a file of its own: on white."""
    return _drawn(plot, form, facecolor="white")


def inline(plot: Plot, prefix: str) -> str:
    """An <svg> element for an HTML page, in which every id begins with `prefix`."""
    root = ET.fromstring(_drawn(plot, "svg", facecolor="none"))  # noqa: S314  made by ourselves
    for element in root.iter():
        _adapt(element, prefix)
    for name in ("width", "height", "version"):
        del root.attrib[name]
    for parent, child in [(p, c) for p in root.iter() for c in p if c.tag in UNWANTED]:
        parent.remove(child)
    root.attrib.update({"role": "img", "aria-labelledby": f"{prefix}-title {prefix}-words"})
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


UNWANTED = ("metadata", "style")
"""A style inside the page would be one of the whole page."""
_NAMESPACE = re.compile(r"\{[^}]*\}")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FAMILY = re.compile(r"font-family:[^;]*;?|font: (?P<size>[\d.]+px)[^;]*(?=;|$)")


def _adapt(element: ET.Element, prefix: str) -> None:
    """Without namespaces, which HTML does not have; ids of its own; the page's colours and letters."""
    element.tag = _NAMESPACE.sub("", element.tag)
    for name, value in list(element.attrib.items()):
        del element.attrib[name]
        plain = _NAMESPACE.sub("", name)
        if plain == "id":
            if not value.rpartition("_")[2].isdigit():  # matplotlib counts what nothing refers to: text_1, axes_1
                element.attrib["id"] = f"{prefix}-{value}"
        elif plain == "href":
            element.attrib["href"] = value.replace("#", f"#{prefix}-", 1)
        elif plain == "style":
            themed = _COLOUR.sub(lambda found: THEMED.get(found[0], found[0]), value)
            element.attrib["style"] = _FAMILY.sub(lambda f: f"font-size: {f['size']}" if f["size"] else "", themed)
        else:
            element.attrib[plain] = value.replace("url(#", f"url(#{prefix}-")


def _drawn(plot: Plot, form: Format, facecolor: str) -> bytes:
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    dateless = {"Date": None} if form == "svg" else None
    image = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context(STYLE):
        warnings.simplefilter("ignore")  # letters that the measuring font lacks: the page has others
        figure = Figure(figsize=(WIDTH / 72, plot.height / 72))
        left, bottom = plot.left / WIDTH, plot.bottom / plot.height
        axes = figure.add_axes((left, bottom, 1 - left - 10 / WIDTH, 1 - bottom - 8 / plot.height))
        plot.draw(axes)
        figure.savefig(image, format=form, dpi=72 if form == "svg" else 180, facecolor=facecolor, metadata=dateless)
    return image.getvalue()


# ---- parts of several plots -----------------------------------------------------------------------------------


SAID = 3


def some(sentences: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    more = f"; and {len(sentences) - SAID} more below" if len(sentences) > SAID else ""
    return "; ".join(sentences[:SAID]) + more


def line_style(index: int) -> dict[str, Any]:
    """So many can be told apart as there are colours times dashes."""
    return {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[index // len(SERIES) % len(DASHES)]}


LEGEND_ROW = 17


def legend_height(labels: Sequence[str]) -> int:
    return LEGEND_ROW * -(-len(labels) // 2) + 4


def legend_below(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """At the lower edge, in two columns."""
    axes.legend(
        list(handles),
        [printable(label) for label in labels],
        loc="lower left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.figure.transFigure,
        ncols=2,
        handlelength=2,
        columnspacing=1,
        labelspacing=0.35,
        borderaxespad=0.2,
    )


def log_axes(axes: Axes, *which: Axis) -> None:
    """With numbers as people write them, where Matplotlib would write formulas. To be called when all is drawn."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator  # noqa: PLC0415

    for name in which:
        (axes.set_xscale if name == "x" else axes.set_yscale)("log")
        axis = axes.xaxis if name == "x" else axes.yaxis
        low, high = axis.get_view_interval()
        axis.set_major_locator(MaxNLocator(4) if high < 5 * low else LogLocator(subs=_subdivision(high / low)))
        axis.set_major_formatter(lambda value, _: f"{value:,g}" if value < 1e4 else f"{value / 1000:,g}k")
        axis.set_minor_locator(NullLocator())


def _subdivision(ratio: float) -> tuple[float, ...]:
    return (1, 2, 5) if ratio < 2000 else (1,)

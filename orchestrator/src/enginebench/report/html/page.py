"""Runs as one HTML page that loads nothing: plots inlined, no script, and a policy that forbids both.

Everything that a run, a file or an engine says is escaped by the template; only our own style sheet and the SVG that
`plots.drawing` made go in as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources

import jinja2
from markupsafe import Markup

from enginebench.errors import UsageError
from enginebench.judge.regression import compare_runs
from enginebench.judge.stored_run import StoredRun
from enginebench.plain_text import printable
from enginebench.report import regression
from enginebench.report.plots import ratios
from enginebench.report.plots.drawing import Lack, Plot, inline

from .content import Part, RunContent, content, grid_of
from .notes import NOTES

HERE = resources.files(__package__)


@dataclass(frozen=True)
class Report:
    """The first run is the base of the comparisons."""

    runs: Sequence[RunContent]
    comparisons: Sequence[Part]

    def plots(self) -> Iterator[tuple[str, Plot]]:
        """A name for each, which no other has, and the plot."""
        for part in self.comparisons:
            yield from _plots(part.anchor, [part])
        for number, run in enumerate(self.runs, start=1):
            yield from _plots(f"run{number}", run.parts)
            for index, chapter in enumerate(run.chapters, start=1):
                yield from _plots(f"run{number}-work{index}", chapter.parts)


def _plots(prefix: str, parts: Sequence[Part]) -> Iterator[tuple[str, Plot]]:
    plots = (figure for part in parts for figure in part.figures if isinstance(figure, Plot))
    return ((f"{prefix}-{plot.name}", plot) for plot in plots)


def report(runs: Sequence[StoredRun]) -> Report:
    others = [_against(runs[0], run, f"runs-{i}") for i, run in enumerate(runs[1:], start=2)]
    return Report([content(run) for run in runs], others)


def _against(base: StoredRun, new: StoredRun, anchor: str) -> Part:
    title = f"{new.run_id} against {base.run_id}"
    try:
        found = compare_runs(base, new)
    except UsageError as error:
        return Part(anchor, title, "verdicts", figures=[Lack(title, str(error))])
    notes = regression.numbered_notes(found).texts
    grids = [replace(grid_of(regression.without_equal_columns(found), "BASE and NEW"), notes=notes)]
    if regression.different(found):
        grids.insert(0, grid_of(regression.different_sheet(found), "What differs"))
    *below, outcome = regression.below(found)[len(notes) :]
    return Part(anchor, title, "verdicts", [outcome, *regression.above(found)], grids, [ratios.of_runs(found)], below)


def html(found: Report) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (HERE / name).read_text()),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    style = Markup((HERE / "style.css").read_text())  # noqa: S704  our own file
    page = environment.get_template("page.html.jinja")
    return page.render(
        report=found, notes=NOTES, style=style, drawn=_drawn, grid_of=grid_of, is_lack=lambda f: isinstance(f, Lack)
    )


def _drawn(plot: Plot, prefix: str) -> Markup:
    return Markup(inline(plot, prefix))  # noqa: S704  its text was escaped when it was written as XML

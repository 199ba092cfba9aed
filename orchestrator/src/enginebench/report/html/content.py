"""What stands in a report: parts, each a heading with figures, tables and sentences, or the reason why it is empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from enginebench.judge.rows import machine_of
from enginebench.judge.stored_run import StoredRun
from enginebench.report import quantisation, table
from enginebench.report.formats import NONE, Sheet, numeric_columns, shown
from enginebench.report.plots import bars, courses, ratios, roofline, stacks
from enginebench.report.plots import quantisation as quantised
from enginebench.report.plots.drawing import Lack, Plot


@dataclass(frozen=True)
class Grid:
    """A table as text. `notes`: numbered, what the last column of a row refers to."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[bool]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """`note`: which methodology note says how it is measured. Everything that is shown of it, in this order."""

    anchor: str
    title: str
    note: str
    above: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    figures: Sequence[Plot | Lack] = ()
    below: Sequence[str] = ()

    @property
    def lacks(self) -> list[Lack]:
        return [figure for figure in self.figures if isinstance(figure, Lack)]


@dataclass(frozen=True)
class Chapter:
    """One model and workload of a run."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class RunContent:
    run_id: str
    words: str
    remarks: Sequence[str]
    chapters: Sequence[Chapter]
    parts: Sequence[Part]
    """Of the whole run."""


def content(run: StoredRun) -> RunContent:
    result = run.result
    plan, environment = result["plan"], result["environment"]
    words = f"{environment['date'][:16].replace('T', ' ')} UTC, {machine_of(environment)}, preset {plan['preset']}"
    chapters = [
        Chapter(f"{section.model}, {section.workload}", list(_parts(result, section)))
        for section in table.sections(result)
    ]
    return RunContent(run.run_id, words, run.remarks, chapters, [_quantised(result), _environment(result)])


def _parts(result: dict[str, Any], section: table.Section) -> Iterator[Part]:
    cases = section.cases
    yield Part(
        "table",
        "Table",
        "gate",
        above=section.above,
        grids=[_of_section(section)],
        below=[*section.ended, table.LEGEND],
    )
    yield Part("speed", "Speed", "intervals", figures=[bars.decode(cases), bars.time_to_first_token(cases)])
    curves = [courses.token_times(cases), courses.request_times(cases)]
    yield Part("tokens", "Tokens and requests over time", "warm-up", figures=curves)
    yield Part("memory", "Memory", "memory", figures=[stacks.memory(cases)])
    starts = [stacks.cold_start(cases, state) for state in stacks.STATES]
    yield Part("cold-start", "Cold start", "cold-start", figures=starts)
    overtaking = [courses.break_even(result, cases, state) for state in stacks.STATES]
    yield Part("break-even", "Break-even", "break-even", figures=overtaking)
    yield Part("roofline", "Roofline", "roofline", figures=[roofline.plot(cases, result["plan"])])
    ratio = ratios.of_cases(result, section.model, section.workload)
    yield Part("comparisons", "Comparisons", "verdicts", figures=[ratio], below=section.compared)


def _of_section(section: table.Section) -> Grid:
    used = table.used_columns(section.rows)
    columns = [table.COLUMNS[index] for index in used]
    return Grid(
        caption="All cases",
        heads=[*(column.heading for column in columns), "note"],
        rows=[[*(row[index] for index in used), row[-1]] for row in section.rows],
        left=[*(column.left for column in columns), True],
        notes=section.notes,
    )


def _quantised(result: dict[str, Any]) -> Part:
    rows = quantisation.quantisation_rows(result)
    left = [number < 2 for number in range(len(quantisation.HEADS))]
    return Part(
        anchor="quantisation",
        title="Quantisation impact",
        note="quantisation",
        grids=[Grid("Quantised cases", quantisation.HEADS, rows, left)] if rows else (),
        figures=[quantised.plot(result)],
        below=[*quantisation.remarks(result), quantisation.LEGEND] if rows else (),
    )


def grid_of(sheet: Sheet, caption: str) -> Grid:
    rows = [[shown(cell) for cell in row] for row in sheet.rows]
    return Grid(caption, [head or "what" for head in sheet.columns], rows, [not n for n in numeric_columns(sheet)])


# ---- environment ----------------------------------------------------------------------------------------------


def _environment(result: dict[str, Any]) -> Part:
    environment, plan = result["environment"], result["plan"]
    return Part(
        anchor="environment",
        title="Environment",
        note="noise",
        grids=[
            _facts({**_machine(environment), **_planned(plan), "sandbox": _sandboxes(result["cases"])}),
            _versions(result["cases"]),
        ],
        below=table.noise_lines(result) or ["no noise gate fired that could be read here"],
    )


def _facts(facts: dict[str, Any]) -> Grid:
    rows = [[name, NONE if value is None else str(value)] for name, value in facts.items()]
    return Grid("Machine and plan", ("what", "value"), rows, (True, True))


def _machine(environment: dict[str, Any]) -> dict[str, Any]:
    repository, cpu = environment["repository"] or {}, environment["cpu"]
    dirty = " and changes" if repository.get("dirty") else ""
    gpus = [f"{gpu['name']}, driver {gpu['driver']}" for gpu in environment["gpus"] or ()]
    return {
        "date": environment["date"],
        "commit": f"{repository['commit']}{dirty}" if repository.get("commit") else None,
        "processor": machine_of(environment),
        **{name.replace("_", " "): cpu.get(name) for name in ("governor", "turbo", "smt")},
        "memory": f"{environment['memory_bytes'] / 1e9:.1f} GB",
        "GPU": "; ".join(gpus) or None,
        **{name: environment.get(name) for name in ("kernel", "distribution", "python", "clocksource")},
    }


def _sandboxes(cases: Sequence[dict[str, Any]]) -> str | None:
    """What the engines' processes had given up, each once."""
    told = {launch.get("sandbox"): None for case in cases for launch in case["launches"]}
    return "; ".join(words for words in told if words) or None


def _planned(plan: dict[str, Any]) -> dict[str, Any]:
    models = [f"{m['name']} ({m['weights']} weights, {m['fingerprint'][:12]})" for m in plan["models"]]
    return {
        "models": "; ".join(models),
        **{name: plan[name] for name in ("device", "threads", "launches", "iterations", "warmup", "seed")},
        "left out": "; ".join(plan["left_out"]) or None,
    }


def _versions(cases: Sequence[dict[str, Any]]) -> Grid:
    """What each engine says of itself; every installed distribution is in the result."""
    told: dict[str, str] = {}
    for case in cases:
        versions = (case["loaded"] or {}).get("versions") or {}
        said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        told[case["engine"]] = said or told.get(case["engine"], NONE)
    return Grid(
        "Versions that the engines report", ("engine", "versions"), [list(pair) for pair in told.items()], (True, True)
    )
